"""From a composed config to the objects of its groups: the only place that makes them, and checks what they may be."""

import dataclasses
import hashlib
import inspect
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic_core import to_jsonable_python

from litespark.config.groups import GROUPS, KIND, MODEL_FOLDER, OPEN, ROOT, classes_of, compared
from litespark.config.loop import CallbacksConfig, LoggerConfig, MetricsConfig, TrainerConfig
from litespark.config.settings import SettingsError, fields_of, together
from litespark.launch import Ranks
from litespark.models.adapters.config import LoraAdapter
from litespark.models.adapters.counts import AdapterCounts, adapter_counts
from litespark.models.llama.config import LlamaConfig
from litespark.models.spec import ModelSpec, Recompute
from litespark.ops.backend import OpsConfig
from litespark.ops.fp8.settings import Fp8Config
from litespark.run.composing import OWN_CALLBACKS, OWN_LOGGER, unread  # its import puts our checks into Hydra
from litespark.run.labels import with_labels
from litespark.run.targets import ConfigError, check_resolved, check_targets
from litespark.run.variant import KEY as VARIANT
from litespark.run.variant import with_variant
from litespark.tasks.task import Task
from litespark.training.budget import BudgetConfig
from litespark.training.optim import OptimizerConfig
from litespark.training.parallel.config import StrategyConfig
from litespark.training.parallel.precision import Residual
from litespark.training.schedule import Schedule

if TYPE_CHECKING:
    from litespark.run.model_folder import ModelFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """A config as dataclasses, each checked by itself; nothing is built yet. `fp8` counts with precision=fp8 only;
    `weights` are what a new run starts from, `resolved` is the whole config as plain values, as it is written into the
    run's folder."""

    model: ModelSpec
    adapter: LoraAdapter | None
    ops: OpsConfig
    precision: str
    residual: Residual
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
    run: str | None
    seed: int
    name: str | None
    resume: str | None
    allow_other_tokenizer: bool
    weights: "ModelFolder | None"
    logs: Path
    resolved: dict[str, Any]

    @cached_property
    def adapter_counts(self) -> AdapterCounts | None:
        """What training the adapter costs; None: all of the model is trained."""
        return None if self.adapter is None else adapter_counts(self.model, self.adapter)

    @property
    def from_folder(self) -> bool:
        """Whether the sizes of the model are those of a folder, which no setting changes."""
        return MODEL_FOLDER in self.resolved

    @property
    def initial_weights(self) -> str:
        """How the weights of a new run begin."""
        return "drawn at random" if self.weights is None else f"read from {self.weights.path}"

    @property
    def llama(self) -> LlamaConfig:
        """The model, for what takes the native family alone."""
        if not isinstance(self.model, LlamaConfig):
            raise ConfigError(
                f"model: got {type(self.model).__name__}, expected a LlamaConfig: this measures the ops and layers of "
                "the native Llama; choose another model, for instance model=tiny"
            )
        return self.model


def parts_from(config: DictConfig) -> Parts:
    """Check the targets of `config`, resolve it, and make the objects of its groups; a ConfigError has all its faults.

    A setting of another kind of its group than the chosen one, which an experiment states for its own choice, is left
    out with a line. The micro-batch is lowered to one that divides the batch over the ranks; a batch that no
    micro-batch divides is left for `preflight` to refuse.
    """
    from litespark.run.model_folder import opened  # reads runs, whose models are made here

    notes: list[str] = []
    config = with_variant(config)
    starts_from_run = "${run}" in str(OmegaConf.to_container(config))
    model = opened(config, notes)
    if model is not None:
        with open_dict(config := config.copy()):
            config["model"] = {"vocab_size": model.vocab_size}  # for what is interpolated
    try:
        resolved: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"the config cannot be resolved: {_first_line(error)}") from error
    if model is not None:
        resolved["model"] = model.node
    check_targets(resolved)
    check_resolved(resolved)  # Hydra resolves once more before it calls, behind the check of the targets
    values = {str(key): value for key, value in resolved.items()}
    data = values.get("data")
    from_weights = model is not None and not model.asked.random and not values.get("allow_other_tokenizer")
    if model is not None and from_weights and isinstance(data, dict) and "tokenizer" in data:
        # where weights are given and no tokenizer is, theirs is meant: a new one would give every id another meaning
        data["tokenizer"] = data["tokenizer"] or model.asked.path
    faults = unread(values, {*GROUPS, *fields_of(ROOT), VARIANT}, str(OmegaConf.to_container(config)))
    if (given := values.get("run")) is not None and not starts_from_run:
        faults.append(
            f"run: got {given}, but nothing of this config starts from one; leave it out, or choose an experiment of a "
            "later stage (quickstart_sft), or start from its weights with model=huggingface and its path as model.path"
        )
    made = {group: made_group(group, values.get(group), faults, notes) for group in GROUPS}
    run = _checked(lambda: ROOT(**{name: values[name] for name in fields_of(ROOT) if name in values}), faults)
    if (callbacks := made["callbacks"]) is not None:
        extra = {name: node for name, node in callbacks.extra.items() if node is not None}
        made["callbacks"] = dataclasses.replace(callbacks, extra=extra)
        for name, node in extra.items():
            _checked(partial(_check_own, node, f"{OWN_CALLBACKS}.{name}", Callback), faults)
    if made["logger"] is not None and (own := made["logger"].own) is not None:
        _checked(partial(_check_own, own, OWN_LOGGER, Logger), faults)
    if faults:
        raise ConfigError(together(list(dict.fromkeys(faults))))
    made["model"] = with_labels(made["model"], made["task"], made["adapter"])
    values |= to_jsonable_python(dataclasses.asdict(run)) | {
        group: _written(values[group], one) for group, one in made.items()
    }
    if model is not None:
        values[MODEL_FOLDER] = {"path": model.asked.path, "random": model.asked.random}
    precision, recompute, paths = made.pop("precision"), made.pop("recompute"), made.pop("paths")
    adapter = made.pop("adapter")
    parts = Parts(
        **made,
        adapter=adapter if isinstance(adapter, LoraAdapter) else None,
        precision=precision.name,
        residual=precision.residual,
        fp8=precision.fp8,
        recompute=recompute.mode,
        logs=Path(paths.logs),
        **{**vars(run), "resume": run.resume or None},
        weights=None if model is None else model.weights,
        resolved=values,
    )
    ranks = Ranks.from_environment(parts.strategy.name)
    parts = _with_fitting_micro_batch(parts, ranks, notes)
    for note in notes if ranks.rank == 0 else []:
        log.warning(note)
    return parts


def _with_fitting_micro_batch(parts: Parts, ranks: Ranks, notes: list[str]) -> Parts:
    asked, batch = parts.data.micro_batch_size, parts.trainer.global_batch_size
    try:
        fitting = parts.trainer.fitting_micro_batch(
            asked, parts.strategy.roles(ranks.world_size, ranks.local_world_size).data
        )
    except ValueError:  # said by preflight
        return parts
    if fitting == asked:
        return parts
    over = f" over {ranks.world_size} processes" if ranks.world_size > 1 else ""
    notes.append(
        f"data.micro_batch_size={asked} does not divide trainer.global_batch_size={batch}{over}; "
        f"data.micro_batch_size={fitting} is used, the training is the same"
    )
    return dataclasses.replace(
        parts,
        data=dataclasses.replace(parts.data, micro_batch_size=fitting),
        resolved={**parts.resolved, "data": {**parts.resolved["data"], "micro_batch_size": fitting}},
    )


def config_hash(resolved: dict[str, Any]) -> str:
    """A short hash of the resolved config, without what does not change the result (names and folders)."""
    return hashlib.sha256(json.dumps(compared(resolved), sort_keys=True, default=str).encode()).hexdigest()[:16]


def _checked(make: Callable[[], Any], faults: list[str]) -> Any:
    """What `make` returns; where it refuses, None and one fault more."""
    try:
        return make()
    except SettingsError as error:
        faults += error.faults
    except ValueError as error:
        faults.append(str(error))
    return None


def made_group(group: str, node: Any, faults: list[str], notes: list[str]) -> Any:
    """The object of a group, or None and its faults."""
    folder = f"configs/{group}"
    if not isinstance(node, dict):
        faults.append(f"{group}: got {node!r:.80}, expected its settings; choose one of {folder}: {group}=…")
        return None
    if "_target_" in node:
        return _checked(lambda: _own(group, node), faults)
    kinds, settings = classes_of(group), dict(node)
    kind = settings.pop(KIND, None) if isinstance(GROUPS[group], dict) else ""
    if not isinstance(kind, str) or kind not in kinds:
        faults.append(f"{group}.{KIND}: got {kind!r:.80}, expected {' or '.join(kinds)}; choose one of {folder}")
        return None
    others = {name for other in kinds.values() for name in fields_of(other)} - fields_of(kinds[kind]).keys()
    given = {word.lstrip("+").partition("=")[0] for word in overrides_given()}
    for name in [name for name in settings if name in others]:
        value, lacks = settings.pop(name), f"{KIND} {kind} of {group} has no such setting"
        if f"{group}.{name}" in given:
            faults.append(f"{group}.{name}: got {value}, but {lacks}; take it out, or choose another {group}")
        else:
            notes.append(f"{group}.{name}={value} is left out: {lacks}")
    if settings.get("extra", ...) is None and kinds[kind] is CallbacksConfig:
        settings["extra"] = {}
    return _checked(lambda: kinds[kind](**settings), faults)


def overrides_given() -> list[str]:
    """What the user gave on the command line, as Hydra took it (of this job, in a sweep)."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _own(group: str, node: dict[str, Any]) -> Any:
    """The object of a class of the user's own, which has to do what its group promises."""
    if group not in OPEN:
        raise ConfigError(
            f"{group}._target_: got {node['_target_']}, expected none: a class of your own is taken for "
            f"{', '.join(OPEN)}, {OWN_CALLBACKS} and {OWN_LOGGER}; take it out"
        )
    if KIND in node:
        raise ConfigError(
            f"{group}._target_: got {node['_target_']} beside {KIND} {node[KIND]} of the chosen file, expected one of "
            f"them; write configs/{group}/NAME.yaml with the _target_ and its arguments, and choose {group}=NAME"
        )
    made = made_own(node, group)
    promise = OPEN[group]
    lacking = [name for name in dir(promise) if not name.startswith("_") and not hasattr(made, name)]
    if lacking or (promise is not Task and not is_dataclass(made)):
        raise ConfigError(
            f"{group}._target_: got {node['_target_']}, expected a {promise.__name__} "
            f"({promise.__module__}){' that has ' + ', '.join(lacking) if lacking else ', which is a dataclass'}; see "
            "CONTRIBUTING.md for an example"
        )
    return made


def _check_own(node: Any, path: str, kind: type) -> None:
    """Refuse a node that does not make a `kind`; its target is checked already, and nothing is called."""
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(
            f"{path}: got {node!r}, expected a class and its arguments; set {path}._target_=mypkg.mine.Class"
        )
    target = get_class(node["_target_"])
    if not issubclass(target, kind):
        raise ConfigError(
            f"{path}._target_: got {node['_target_']}, expected a subclass of lightning.pytorch.{kind.__name__}; name "
            "one (that of pytorch_lightning is another class)"
        )
    takes = inspect.signature(target)
    try:
        takes.bind(**{key: value for key, value in node.items() if key != "_target_"})
    except TypeError as error:
        raise ConfigError(
            f"{path}: {error}; {target.__name__} takes {takes}, set {path}.ARGUMENT=VALUE for each"
        ) from error


def made_own(node: dict[str, Any], path: str) -> Any:
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, ValueError) and path in OPEN:
            raise cause from error
        reason = f"{type(cause).__name__}: {_first_line(cause)}"
        raise ConfigError(f"{path}: {reason}; see the arguments of {node['_target_']}") from error


def _written(node: dict[str, Any], made: Any) -> dict[str, Any]:
    """The settings of a group as plain values, with those that its class filled in; of the user's own as given."""
    kind = {KIND: node[KIND]} if KIND in node else {}
    return node if "_target_" in node else kind | to_jsonable_python(dataclasses.asdict(made))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def differences(saved: dict[str, Any], current: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys (dotted) in which two configs differ, with both values; names and folders are not compared, nor settings
    that the saved one is too old to have and the current one leaves as they are."""
    old, new = compared(saved), compared(current)
    differing = (key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key))
    return {key: (old.get(key), new.get(key)) for key in differing if not _added_since(key, old, new)}


def _added_since(key: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    group, _, name = key.partition(".")
    kind = f"{group}.{KIND}"
    if key in old or group not in GROUPS:
        return False
    if key == kind and not any(other.startswith(f"{group}.") for other in old):  # a group that was not there yet
        return new[key] == next(iter(classes_of(group)))
    if old.get(kind) != new.get(kind):
        return False
    made = classes_of(group).get(new.get(kind, ""))
    field = None if made is None else fields_of(made).get(name)
    return field is not None and new[key] == field.default
