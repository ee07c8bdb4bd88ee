"""`model=huggingface`: a Hugging Face folder, or a run of ours, becomes the model that it holds, and what a run starts
from."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic_core import to_jsonable_python
from torch import Tensor, nn

from litespark.atomic import content_hash
from litespark.config.groups import KIND, MODEL_FOLDER, classes_of
from litespark.config.settings import together
from litespark.data.tokenizer import Tokenizer
from litespark.data.tokenizer_files import tokenizer_file
from litespark.models.huggingface.spec import HuggingFaceConfig
from litespark.models.init import copy_weights, fill_weights
from litespark.models.parallel_layers import Part
from litespark.models.safetensors_folder import SafetensorsReader
from litespark.models.spec import HasHuggingFace, ModelSpec
from litespark.ops.backend import Ops, OpsConfig, resolve
from litespark.run import load
from litespark.run.config import made_group
from litespark.run.folder import CONFIG, TOKENIZER, read_config, run_of
from litespark.run.targets import ConfigError, check_targets
from litespark.training.checkpoint.folder import Checkpoint, find, is_run

log = logging.getLogger(__name__)

_CONFIG = "config.json"
_WITHOUT_A_RUN = (
    "run: got null, expected the run, checkpoint or Hugging Face folder that this experiment begins with; set "
    "run=FOLDER, for instance run=logs/runs/NAME"
)


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk: its settings, as `made_group` takes them; `reason` is why the native family does not take it."""

    path: str
    node: dict[str, Any]
    spec: Any
    checkpoint: Checkpoint | None
    tokenizer: Path | None
    reason: str | None = None

    @classmethod
    def find(cls, path: str | Path, *, weights: bool = True) -> ModelFolder:
        """What a Hugging Face folder, a run (its newest valid checkpoint) or a checkpoint of one holds.

        Raises:
            ValueError: there is none; a file is missing or damaged (without `weights` their files are not looked for);
                it is of a model that cannot be trained here.
        """
        folder = Path(path)
        try:
            if not folder.is_dir():
                raise ValueError(
                    f"got {folder}, expected a Hugging Face folder (config.json and *.safetensors), a run folder "
                    "or a checkpoint in it; a model of the hub is fetched with: hf download NAME --local-dir FOLDER"
                )
            if (folder / _CONFIG).is_file() or not ((folder / CONFIG).exists() or is_run(folder)):
                spec, reason = load.of_config(folder)
                if weights:
                    SafetensorsReader(folder)
                return cls(str(path), _node(spec), spec, None, tokenizer_file(folder), reason)
            checkpoint = find(folder)
            run = run_of(checkpoint.folder.resolve())
            tokenizer = (run / TOKENIZER).is_dir() and tokenizer_file(load.tokenizer_folder(checkpoint))
            spec = load.model_config(checkpoint)
            return cls(str(path), dict(checkpoint.about["model"]), spec, checkpoint, tokenizer or None)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror or error}; name another folder") from error

    @property
    def place(self) -> Path:
        """Where the weights lie: a Hugging Face folder, or a checkpoint."""
        return (Path(self.path) if self.checkpoint is None else self.checkpoint.folder).resolve()

    @cached_property
    def sha256(self) -> str:
        """Of the weights; those of a Hugging Face folder are read for it, of a checkpoint its seal has it."""
        return hash_of_folder(self.place) if self.checkpoint is None else self.checkpoint.sha256

    def fill(self, model: nn.Module) -> None:
        """Give the weights to a model of `spec`, in place; a head of labels stays as it is where these have none.

        Of a checkpoint without an adapter and of a Llama's folder a rank reads what it holds of a sharded model.
        """
        own = getattr(getattr(model, "config", None), "num_labels", None)
        if self.checkpoint is not None and "adapter" not in self.checkpoint.about:
            stored = load.stored_weights(self.checkpoint)
            head = getattr(self.spec, "num_labels", None) == own

            def give(name: str, parameter: Tensor, part: Part | None) -> None:
                (stored[name] if part is None else stored[name].rows(part)).read_into(parameter)

            fill_weights(model, give, head=head)
            return
        family: Any = self.spec.huggingface() if self.checkpoint is None else None
        if hasattr(family, "fill_huggingface"):
            family.fill_huggingface(self.path, model, head=getattr(self.spec, "num_labels", None) == own)
            return
        source: Any = self.read(resolve(OpsConfig()))
        copy_weights(source, model, head=getattr(getattr(source, "config", None), "num_labels", None) == own)

    def read(self, ops: Ops) -> nn.Module:
        """The model with its weights, in fp32 on the CPU; one of a run has the references."""
        if self.checkpoint is not None:
            return load.load_model(self.checkpoint)
        assert isinstance(self.spec, HasHuggingFace)
        model: nn.Module = self.spec.huggingface().load_huggingface(self.path, ops)
        return model


def hash_of_folder(folder: Path) -> str:
    """Of each file of weights in a Hugging Face folder."""
    return ",".join(map(content_hash, sorted(folder.glob("*.safetensors"))))


def _node(spec: ModelSpec) -> dict[str, Any]:
    kind = next(kind for kind, made in classes_of("model").items() if made is type(spec))
    return {KIND: kind, **to_jsonable_python(asdict(spec))}


@dataclass(frozen=True)
class Opened:
    """The model that `model=huggingface` comes to: its settings, what was asked, and the folder of a new run."""

    asked: HuggingFaceConfig
    node: dict[str, Any]
    vocab_size: int
    found: ModelFolder | None

    @property
    def weights(self) -> ModelFolder | None:
        """What the run starts from; None: its weights are drawn, or it is resumed."""
        return None if self.asked.random else self.found


def opened(config: DictConfig, notes: list[str]) -> Opened | None:
    """The model of `model.path`; None where the config chooses another one.

    A resumed run has its own, and the folder is not read again.

    Raises:
        ConfigError: `model.path` names no folder that can be trained.
    """
    try:
        given: Any = OmegaConf.to_container(config.get("model") or OmegaConf.create({}), resolve=True)
    except OmegaConfBaseException:  # told when the whole is resolved
        return None
    if not isinstance(given, dict) or given.get(KIND) != "huggingface" or given.get("config") is not None:
        return None
    faults: list[str] = []
    asked = made_group("model", given, faults, notes)
    if asked is None:
        raise ConfigError(_WITHOUT_A_RUN if _lacks_its_run(config) else together(faults))
    found, node = None, None if config.get("resume") is None else _of_run(str(config.resume))
    if node is None:
        try:
            found = ModelFolder.find(asked.path, weights=not asked.random)
        except ValueError as error:
            raise ConfigError(f"model.path: {error}") from error
        node = found.node
        if found.reason is not None and found.spec.transformers.model_type == "llama":
            notes.append(f"model.path={asked.path}: a Llama of transformers and not the native one: {found.reason}")
    if node.get(KIND) == "huggingface":
        node = {**node, "path": asked.path, "random": asked.random}
    spec = made_group("model", node, faults, notes) if found is None else found.spec
    if spec is None:
        raise ConfigError(together(faults))
    return Opened(asked, node, spec.vocab_size, found)


def _lacks_its_run(config: DictConfig) -> bool:
    """Whether an experiment takes the model of `run`, and none is given."""
    unresolved: Any = OmegaConf.to_container(config.model)
    return unresolved.get("path") == "${run}" and config.get("run") is None


def _of_run(resume: str) -> dict[str, Any] | None:
    """The model of a run that was started from a folder; None where it was not, or is not there."""
    path = run_of(resume) / CONFIG
    config = read_config(path) if path.is_file() else {}
    node = config.get("model") if MODEL_FOLDER in config else None
    check_targets({"model": node})
    return node if isinstance(node, dict) else None


def check_tokenizer(used: ModelFolder | None, allow_other: bool, tokenizer: str | Path) -> None:
    """Compare the tokenizer of the data with the one that the weights were trained with."""
    if used is None or allow_other:
        return
    if used.tokenizer is None:
        log.warning("model.path=%s has no tokenizer to compare with that of the data", used.path)
        return
    difference = Tokenizer.load(tokenizer).difference(Tokenizer.load(used.tokenizer))
    if difference is not None:
        raise ConfigError(
            f"model.path={used.path}: got the tokenizer of {tokenizer}, expected that of the weights, "
            f"{used.tokenizer}: {difference}. Leave out data.tokenizer, and that one is taken; to train these weights "
            "on other ids all the same, set allow_other_tokenizer=true"
        )
