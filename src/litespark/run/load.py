"""Reads a trained model back from a run folder: weights, sizes and tokenizer, for export and generation.

Nothing in a run folder is trusted: files are verified against the seal, nothing is unpickled, and no class is called
but ours and those that are allowed.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from litespark.atomic import written_whole
from litespark.config.groups import NATIVE
from litespark.config.settings import together
from litespark.data.tokenizer import Tokenizer
from litespark.models.adapters import lora
from litespark.models.huggingface.spec import HuggingFaceConfig
from litespark.models.safetensors_folder import end_ids
from litespark.models.spec import HasHuggingFace, ModelSpec
from litespark.ops.backend import OpsConfig, resolve
from litespark.run.config import made_group
from litespark.run.folder import SEAL, TOKENIZER, run_of
from litespark.run.targets import check_targets
from litespark.training.checkpoint.folder import Checkpoint, CheckpointError, find
from litespark.training.checkpoint.pieces import StoredTensor
from litespark.training.checkpoint.state import WEIGHTS, read_state

# where the LightningModule keeps its model
_PREFIX = "model."


class Trained(NamedTuple):
    """A trained model, the folder of its tokenizer, and its checkpoint."""

    model: nn.Module
    tokenizer: Path
    checkpoint: Checkpoint


def load_trained(path: str | Path) -> Trained:
    """The model of a run folder (its newest valid checkpoint) or of one checkpoint in it.

    A CheckpointError where there is none; a ValueError where the run has no tokenizer, or another one by now.
    """
    checkpoint = find(path)
    tokenizer = tokenizer_folder(checkpoint)
    return Trained(load_model(checkpoint).eval(), tokenizer, checkpoint)


def load_for_generation(path: str | Path) -> tuple[nn.Module, Path, list[int]]:
    """Of a run, a checkpoint or a Hugging Face folder: model, folder of the tokenizer, further ids that end a text."""
    path = Path(path)
    if (path / "config.json").is_file():
        family = of_config(path)[0].huggingface()
        return family.load_huggingface(path, resolve(OpsConfig())).eval(), path, end_ids(path)
    trained = load_trained(path)
    return trained.model, trained.tokenizer, [*getattr(model_config(trained.checkpoint), "eos_ids", ())]


def of_config(folder: Path) -> tuple[Any, str | None]:
    """The model of a folder's `config.json`: of the native family, or else of transformers, and why."""
    native, reason = NATIVE.huggingface(), NATIVE.huggingface().why_not_native(folder)
    family = native if reason is None else HuggingFaceConfig.huggingface()
    return family.read_config(folder / "config.json", folder.absolute().name), reason


def export(path: str | Path, folder: Path) -> tuple[ModelSpec, Checkpoint]:
    """Write the model of a run or a checkpoint as a Hugging Face folder."""
    model, tokenizer, checkpoint = load_trained(path)
    config = model_config(checkpoint)
    if not isinstance(config, HasHuggingFace):
        raise ValueError(
            f"{path}: got model={config.name}, expected a family that transformers has (HasHuggingFace of "
            "models/spec.py); only such a model can be exported"
        )
    ids = Tokenizer.load(tokenizer)
    special = {"eos_id": ids.eos_id, "bos_id": next(iter(ids.begin_ids), None), "pad_id": ids.pad_id}
    config.huggingface().export_huggingface(model, folder, tokenizer=tokenizer, **special)
    return config, checkpoint


def export_adapter(path: str | Path, folder: Path) -> tuple[ModelSpec, Checkpoint]:
    """Write the adapter of a run or a checkpoint as a folder of PEFT, for the Hugging Face folder of its base."""
    from litespark.run.adapter import load_adapted  # reads its base, which is loaded here

    checkpoint = find(path)
    if "adapter" not in checkpoint.about:
        raise ValueError(f"{path}: got a run without an adapter, expected one of adapter=lora; leave out --adapter")
    model, adapter, base = load_adapted(checkpoint)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(folder) as partial:
        partial.mkdir()
        lora.save(model, adapter, partial, base)
    return model_config(checkpoint), checkpoint


def model_config(checkpoint: Checkpoint) -> ModelSpec:
    """The sizes that a checkpoint's seal states; of an own family, its class has to be allowed."""
    stated, faults = checkpoint.about.get("model"), list[str]()
    try:
        check_targets({"model": stated})
    except ValueError as error:
        faults.append(str(error))
    config: ModelSpec | None = None if faults else made_group("model", stated, faults, [])
    if config is None:
        raise CheckpointError(f"{checkpoint.folder / SEAL} describes no model of this version: {together(faults)}")
    return config


def tokenizer_folder(checkpoint: Checkpoint) -> Path:
    folder = run_of(checkpoint.folder.resolve()) / TOKENIZER
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is missing: this run has no tokenizer (one on data=synthetic has none), or its checkpoint was "
            "taken out of the run folder that training wrote (logs/runs/NAME/checkpoints/step-…); put it back there"
        )
    if Tokenizer.load(folder).hash != checkpoint.about.get("tokenizer_hash"):
        raise ValueError(
            f"{folder} holds another tokenizer than the one that {checkpoint.folder} was trained with (its hash "
            "differs); put the old one back"
        )
    return folder


def load_model(checkpoint: Checkpoint) -> nn.Module:
    """The model of a checkpoint, on the CPU in fp32, with the references; the weights have to be those of its sizes.

    An adapter is merged into its base.
    """
    if "adapter" in checkpoint.about:
        from litespark.run.adapter import load_adapted  # reads its base, which is loaded here

        model = load_adapted(checkpoint)[0]
        lora.merge(model)
        return model
    weights = stored_weights(checkpoint)
    with torch.device("meta"):
        model = model_config(checkpoint).build(resolve(OpsConfig()), "none")
    model.to_empty(device="cpu")
    for name, weight in model.state_dict().items():
        weights[name].read_into(weight)
    return model


def stored_weights(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    """The weights of a checkpoint by their names in its model, which they fit; nothing of them is read yet."""
    config = model_config(checkpoint)
    with torch.device("meta"):
        expected = config.build(resolve(OpsConfig()), "none").state_dict()
    weights: dict[str, StoredTensor] = {
        name.removeprefix(_PREFIX): value
        for name, value in read_state(checkpoint)[WEIGHTS].items()  # beside them lie those of a task's metrics
        if name.startswith(_PREFIX)
    }
    for name in sorted(weights.keys() | expected.keys()):
        there, wanted = (tuple(side[name].shape) if name in side else None for side in (weights, expected))
        if there != wanted:
            raise CheckpointError(
                f"{checkpoint.folder}: {name} is {there or 'absent'}, expected {wanted or 'no such weight'} for "
                f"{config.name} as its seal describes it; this checkpoint is of another kind or version"
            )
    return weights
