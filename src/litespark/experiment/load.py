"""Reads a trained model back from a run folder: weights, sizes and tokenizer, for export and generation.

Nothing in a run folder is trusted. Files are verified against the checkpoint's seal, the state is read without
unpickling code, and sizes are taken as plain values into dataclasses that check them; no config is instantiated.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from litespark.callbacks import checkpoint_folder
from litespark.callbacks.checkpoint_folder import Checkpoint, CheckpointError
from litespark.callbacks.run_record import RECORD
from litespark.data.manifest import FILE as MANIFEST
from litespark.data.manifest import Manifest
from litespark.experiment.run_folder import CONFIG
from litespark.metrics.record import RunRecord
from litespark.models.config import LlamaConfig, RopeScaling
from litespark.models.huggingface import load_huggingface
from litespark.models.init import materialise
from litespark.models.llama import Llama
from litespark.ops.backend import OpsConfig, resolve

# where the LightningModule keeps its model
_PREFIX = "model."


class Trained(NamedTuple):
    """A trained model with what belongs to it.

    `tokenizer` is the prepared folder that the run read, with `tokenizer.json` and `manifest.json` in it.
    """

    model: Llama
    tokenizer: Path
    checkpoint: Checkpoint


def load_trained(path: str | Path, ops: OpsConfig | None = None) -> Trained:
    """The model of a run folder (its newest valid checkpoint) or of one checkpoint in it, on the CPU in fp32.

    Args:
        path: a run folder, or a folder `checkpoints/step-…` in one.
        ops: the backends to compute with; None: the references, which run everywhere.

    Raises:
        CheckpointError: no valid checkpoint there, or one whose content is not a model of this project.
        ValueError: the run's files do not say where its tokenizer is, or it is gone or another one by now.
    """
    checkpoint = checkpoint_folder.find(path)
    config = model_config(checkpoint)
    tokenizer = prepared_folder(checkpoint)
    with torch.device("meta"):
        model = Llama(config, resolve(ops or OpsConfig()))
    materialise(model, "cpu")
    _fill(model, checkpoint)
    return Trained(model.eval(), tokenizer, checkpoint)


def load_for_generation(path: str | Path) -> tuple[Llama, Path]:
    """A model and the folder of its tokenizer, from a run, a checkpoint, or a Hugging Face Llama folder.

    Raises:
        ValueError: as `load_trained` and `load_huggingface` do.
    """
    path = Path(path)
    if (path / "config.json").is_file():
        return load_huggingface(path, resolve(OpsConfig())).eval(), path
    trained = load_trained(path)
    return trained.model, trained.tokenizer


def read_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """All that a checkpoint holds, tensors on the CPU and mapped from the file.

    Raises:
        CheckpointError: the file is not a state, or holds something else than tensors and plain values.
    """
    try:
        state = torch.load(checkpoint.state, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{checkpoint.state} is not read: {str(error).splitlines()[0]}. Expected tensors and plain values as a "
            "training run saves them; anything else could run code and is refused"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{checkpoint.state}: got a {type(state).__name__}, expected the state of a training run")
    return state


def model_config(checkpoint: Checkpoint) -> LlamaConfig:
    """The sizes that a checkpoint's seal states.

    Raises:
        CheckpointError: fields are missing, unknown or out of range.
    """
    stated = checkpoint.about.get("model")
    try:
        values = dict(_fields(stated, LlamaConfig))
        if values["rope_scaling"] is not None:
            values["rope_scaling"] = RopeScaling(**_fields(values["rope_scaling"], RopeScaling))
        return LlamaConfig(**values)
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint.folder / checkpoint_folder.SEAL} does not describe a model of this version: {error}"
        ) from error


def prepared_folder(checkpoint: Checkpoint) -> Path:
    """The prepared data that the run of a checkpoint read; its tokenizer lies there.

    Raises:
        ValueError: the run's files do not name it, or it is gone or has other content by now.
    """
    run = checkpoint.folder.resolve().parent.parent
    for name in (CONFIG, RECORD):
        if not (run / name).is_file():
            raise ValueError(
                f"{run / name} is missing, and it says where the tokenizer of this run is; expected a checkpoint in "
                "the run folder that training wrote (logs/runs/NAME/checkpoints/step-…)"
            )
    config, record = _plain_config(run / CONFIG), RunRecord.read(run / RECORD)
    data, paths = config.get("data"), config.get("paths")
    source, root = (data.get(key) if isinstance(data, dict) else None for key in ("source", "root"))
    if not isinstance(source, str) or not isinstance(root, str):
        raise ValueError(
            f"{run}: the run was trained on {record.data.name!r}, which has no tokenizer; expected a run on prepared "
            "text (data.source)"
        )
    logs = paths.get("logs") if isinstance(paths, dict) else None
    named = [Path(source).expanduser(), Path(root).expanduser() / Path(record.data.name).name]
    candidates = [start / folder for start in _starts(run, logs) for folder in named]
    expected = checkpoint.about.get("manifest_hash")
    others = []
    for folder in candidates:
        if (folder / MANIFEST).is_file():
            if Manifest.read(folder).hash == expected:
                return folder
            others.append(folder)
    if others:
        raise ValueError(
            f"{others[0]} has another content than the data that {run.name} was trained on (its manifest's hash "
            "differs), so its tokenizer may not be the model's; put the old folder back"
        )
    raise ValueError(
        f"the prepared data of {run.name} is gone, and its tokenizer with it: looked for {candidates[1]}. Prepare the "
        f"same text with the same settings again (they are in {run / CONFIG}), or put the folder back"
    )


def _fill(model: Llama, checkpoint: Checkpoint) -> None:
    """Copy the weights of a checkpoint into `model`; names and shapes have to be the model's, all of them."""
    state = read_state(checkpoint).get("state_dict")
    found: dict[str, Tensor] = {}
    if isinstance(state, Mapping):
        found = {
            name.removeprefix(_PREFIX): value
            for name, value in state.items()
            if isinstance(name, str) and name.startswith(_PREFIX) and isinstance(value, Tensor)
        }
    expected = dict(model.named_parameters())
    for name in sorted(found.keys() | expected.keys()):
        there, wanted = (tuple(side[name].shape) if name in side else None for side in (found, expected))
        if there != wanted:
            raise CheckpointError(
                f"{checkpoint.state}: {name} is {there or 'absent'}, expected {wanted or 'no such weight'} for "
                f"{model.config.name} as its seal describes it; this checkpoint is of another kind or version"
            )
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(found[name])


def _fields(values: Any, kind: type) -> dict[str, Any]:
    """`values` if it is a mapping with exactly the fields of the dataclass `kind`."""
    names = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(values, Mapping) or set(values) != names:
        got = sorted(map(str, values)) if isinstance(values, Mapping) else values
        raise ValueError(f"{kind.__name__}: got {got}, expected the fields {sorted(names)}")
    return dict(values)


def _plain_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: got a {type(config).__name__}, expected the config of a run")
    return config


def _starts(run: Path, logs: object) -> list[Path]:
    """Where relative paths in the run's config may start: the current folder, and the one the run was started in."""
    starts = [Path.cwd()]
    if isinstance(logs, str) and not Path(logs).is_absolute():
        below = (*Path(logs).parts, "runs", run.name)
        if run.parts[-len(below) :] == below:
            starts.append(Path(*run.parts[: -len(below)]))
    return starts
