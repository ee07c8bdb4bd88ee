"""From a Hydra config to dataclasses: the only place that instantiates, and only what `targets` allows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import litespark.experiment.composing  # noqa: F401 – puts our checks into Hydra, however a config is composed
from litespark.experiment.own_callbacks import checked_callbacks
from litespark.experiment.settings import CallbacksConfig, LoggerConfig, MetricsConfig, TrainerConfig
from litespark.experiment.spelling import nearest
from litespark.experiment.targets import ConfigError, check_kinds, check_resolved, check_targets, named_class
from litespark.experiment.variant import with_variant
from litespark.launch import Ranks
from litespark.models.llama.config import LlamaConfig
from litespark.models.spec import RECOMPUTE_MODES, ModelSpec, Recompute
from litespark.ops.backend import OpsConfig
from litespark.ops.fp8.settings import Fp8Config
from litespark.ranges import Seed, check_number
from litespark.tasks.task import Task
from litespark.training.budget import BudgetConfig
from litespark.training.optim import OptimizerConfig
from litespark.training.schedule import Schedule
from litespark.training.strategies import StrategyConfig

log = logging.getLogger(__name__)


_READ_HERE = (
    *("precision.name", "recompute.mode", "seed", "name", "resume", "initial_weights", "allow_other_tokenizer"),
    "paths.logs",
)


@dataclass(frozen=True)
class Parts:
    """A config as dataclasses, each checked by itself; nothing is built yet.

    `data` is the dataclass of the chosen data source (see `litespark.data`); `fp8` counts with precision=fp8 only;
    `resolved` is the whole config as plain values, as it is written into the run's folder.
    """

    model: ModelSpec
    ops: OpsConfig
    precision: str
    fp8: Fp8Config
    recompute: Recompute
    data: Any
    optim: OptimizerConfig
    schedule: Schedule
    strategy: StrategyConfig
    budget: BudgetConfig
    trainer: TrainerConfig
    metrics: MetricsConfig
    callbacks: CallbacksConfig
    logger: LoggerConfig
    task: Task
    seed: int
    name: str | None
    resume: str | None
    initial_weights: str | None
    allow_other_tokenizer: bool
    logs: Path
    resolved: dict[str, Any]

    @property
    def llama(self) -> LlamaConfig:
        """The model, for what knows the native family alone.

        Raises:
            ConfigError: it is of another family.
        """
        if not isinstance(self.model, LlamaConfig):
            raise ConfigError(
                f"model: got {type(self.model).__name__}, expected a LlamaConfig: this measures the ops and layers of "
                "the native Llama; choose another model, for instance model=tiny"
            )
        return self.model


def parts_from(config: DictConfig) -> Parts:
    """Check the targets of `config`, resolve it, and make its dataclasses.

    The micro-batch is lowered to one that divides the batch over the ranks; a batch that no micro-batch divides is
    left for `preflight` to refuse.

    Raises:
        ConfigError: a target that is not allowed, a missing or unknown key, a value of the wrong kind, also in
            `variant`.
        ValueError: a dataclass refuses its values.
    """
    config = with_variant(config)
    try:
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"the config cannot be resolved: {_first_line(error)}") from error
    assert isinstance(resolved, dict)
    check_targets(resolved)
    values = {str(key): value for key, value in resolved.items()}
    _require(values)
    if values["precision"]["name"] not in ("auto", "fp32", "bf16", "fp8"):
        raise ConfigError(f"precision.name: got {values['precision']['name']!r}, expected auto, fp32, bf16 or fp8")
    if values["recompute"]["mode"] not in RECOMPUTE_MODES:
        modes = ", ".join(RECOMPUTE_MODES)
        raise ConfigError(f"recompute.mode: got {values['recompute']['mode']!r}, expected one of {modes}")
    if isinstance(values["seed"], float) and values["seed"].is_integer():
        values["seed"] = int(values["seed"])
    check_number("seed", values["seed"], Seed, default=1234)
    if not isinstance(values["allow_other_tokenizer"], bool):
        raise ConfigError(f"allow_other_tokenizer: got {values['allow_other_tokenizer']!r}, expected true or false")
    _take_tokenizer(values)
    parts = Parts(
        model=_made(values, "model", ModelSpec),
        ops=_make(values, "ops"),
        precision=values["precision"]["name"],
        fp8=_make(values, "precision.fp8"),
        recompute=values["recompute"]["mode"],
        data=_make(values, "data"),
        optim=_make(values, "optim"),
        schedule=_make(values, "schedule"),
        strategy=_make(values, "strategy"),
        budget=_make(values, "budget"),
        trainer=_make(values, "trainer"),
        metrics=_make(values, "metrics"),
        callbacks=_callbacks(values),
        logger=_make(values, "logger"),
        task=_made(values, "task", Task),
        seed=values["seed"],
        name=_text(values["name"]),
        resume=_text(values["resume"]) or None,
        initial_weights=_text(values["initial_weights"]),
        allow_other_tokenizer=values["allow_other_tokenizer"],
        logs=Path(str(values["paths"]["logs"])),
        resolved=values,
    )
    return _with_fitting_micro_batch(parts, Ranks.from_environment(parts.strategy.name))


def _with_fitting_micro_batch(parts: Parts, ranks: Ranks) -> Parts:
    asked = parts.data.micro_batch_size
    if parts.trainer.global_batch_size % ranks.world_size:
        return parts
    fitting = parts.trainer.fitting_micro_batch(asked, ranks.world_size)
    if fitting == asked:
        return parts
    if ranks.rank == 0:
        over = f" over {ranks.world_size} processes" if ranks.world_size > 1 else ""
        log.warning(
            "data.micro_batch_size=%d does not divide trainer.global_batch_size=%d%s; data.micro_batch_size=%d is "
            "used, the training is the same", asked, parts.trainer.global_batch_size, over, fitting,
        )  # fmt: skip
    return dataclasses.replace(
        parts,
        data=dataclasses.replace(parts.data, micro_batch_size=fitting),
        resolved={**parts.resolved, "data": {**parts.resolved["data"], "micro_batch_size": fitting}},
    )


def config_hash(resolved: dict[str, Any]) -> str:
    """A short hash of the resolved config, without what does not change the result (names and folders)."""
    without = ("name", "variant", "resume", "paths", "hydra")
    relevant = {key: value for key, value in resolved.items() if key not in without}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _take_tokenizer(values: dict[str, Any]) -> None:
    """Where weights are given and no tokenizer is, theirs is meant: a new one would give every id another meaning."""
    data, weights = values["data"], _text(values["initial_weights"])
    if weights and not values["allow_other_tokenizer"] and isinstance(data, dict) and "tokenizer" in data:
        data["tokenizer"] = weights if data["tokenizer"] is None else data["tokenizer"]


def _make(values: dict[str, Any], path: str) -> Any:
    """The object of the config group at `path`, of which a dot leads into a group within a group."""
    node: Any = values
    for key in path.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    folder = f"configs/{path.replace('.', '/')}"
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"{path}: got {node!r}, expected a group with a _target_; choose one of {folder}")
    _refuse_unknown(node, path, folder)
    check_resolved(node, path)  # Hydra resolves once more before it calls, behind the check of the targets
    check_kinds(node, path)
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError):
            raise cause from error
        reason = _first_line(cause or error)
        raise ConfigError(f"{path}: {reason}; see {folder} for the keys and their kinds") from error


def _made(values: dict[str, Any], path: str, promise: type) -> Any:
    """The object of a group that may be the user's own, which has to do what `promise` asks for."""
    made = _make(values, path)
    lacking = [name for name in dir(promise) if not name.startswith("_") and not hasattr(made, name)]
    if lacking or (promise is ModelSpec and not is_dataclass(made)):
        raise ConfigError(
            f"{path}._target_: got {values[path]['_target_']}, expected a {promise.__name__} "
            f"({promise.__module__}){' that has ' + ', '.join(lacking) if lacking else ', which is a dataclass'}; see "
            "CONTRIBUTING.md for an example"
        )
    return made


def _callbacks(values: dict[str, Any]) -> CallbacksConfig:
    """The callbacks of a run; those of one's own are checked and not made."""
    node = values["callbacks"]
    extra = node.pop("extra", None) if isinstance(node, dict) else None
    made = _make(values, "callbacks")
    node["extra"] = checked_callbacks(extra)
    return dataclasses.replace(made, extra=node["extra"])


def _refuse_unknown(node: dict[str, Any], path: str, folder: str) -> None:
    """Refuse an argument that the dataclass of a checked node does not have, with the one that was meant."""
    target = named_class(node)
    if not is_dataclass(target):
        return
    known = [field.name for field in fields(target) if field.init]
    for key, value in node.items():
        if key != "_target_" and key not in known:
            near = nearest(f"{path}.{key}", [f"{path}.{each}" for each in known])
            advice = f"set {near[0]}={value}" if near and not isinstance(value, dict | list) else "take it out"
            raise ConfigError(f"{path}: got {path}.{key}, which is no setting; {advice}, or see {folder} for the keys")
        if isinstance(value, dict) and "_target_" in value:
            _refuse_unknown(value, f"{path}.{key}", folder)


def _text(value: Any) -> str | None:
    """A name or path; one of digits only arrives as a number."""
    return None if value is None else str(value)


def _require(values: dict[str, Any]) -> None:
    """Refuse a config from which a setting that belongs to no dataclass was taken out, and logs that are no path."""
    for path in _READ_HERE:
        node: Any = values
        for key in path.split("."):
            if not isinstance(node, dict) or key not in node:
                raise ConfigError(f"{path}: got none, expected the setting of configs/train.yaml; leave ~{path} out")
            node = node[key]
    logs = values["paths"]["logs"]
    if not isinstance(logs, str | int | float) or "\0" in str(logs) or not str(logs):
        raise ConfigError(f"paths.logs: got {logs!r}, expected a path; set paths.logs=logs")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
