"""`adapter=lora` in a run: what it stands on, what stands against it, and how it is read back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from litespark.config.settings import together
from litespark.mesh import Mesh
from litespark.models.adapters import lora
from litespark.models.adapters.config import LoraAdapter, import_peft
from litespark.models.spec import TakesAdapters
from litespark.ops.backend import OpsConfig, resolve
from litespark.run.config import Parts, made_group
from litespark.run.model_folder import ModelFolder
from litespark.tasks.task import NeedsTools
from litespark.training.adapter import PREFIX, check_adapter
from litespark.training.checkpoint.folder import Checkpoint, CheckpointError
from litespark.training.checkpoint.state import WEIGHTS, read_state
from litespark.training.optim import MuonConfig

log = logging.getLogger(__name__)


def why_no_adapter(parts: Parts, precision: str) -> list[str]:
    """Each reason why the adapter of these settings cannot be trained, with what would mend it."""
    adapter, reasons = parts.adapter, []
    if adapter is None:
        return []
    if parts.weights is None and parts.resume is None:
        reasons.append(
            f"adapter=lora: got model={parts.model.name} with drawn weights, expected trained ones; set "
            "model=huggingface model.path=FOLDER, a Hugging Face folder or a run"
        )
    for wrong, got, remedy in (
        (precision == "fp8", "precision=fp8, in which weights are cast anew in each step", "precision=bf16"),
        (parts.recompute == "swiglu", "recompute=swiglu, which multiplies with a matrix itself", "recompute=full"),
        (isinstance(parts.optim, MuonConfig), "optim=muon, which is for whole matrices", "optim=adamw"),
        (parts.ops.cuda_graph, "ops.cuda_graph=true", "ops.cuda_graph=false"),
    ):
        if wrong:
            reasons.append(f"adapter=lora: got {got}; set {remedy}")
    if adapter.path is not None and isinstance(parts.task, NeedsTools) and parts.task.keeps_reference:
        reasons.append(
            f"adapter=lora: got adapter.path={adapter.path} with task.beta above 0, whose reference would "
            "be the model below the adapter, not the policy that begins; export the merged model, start from it by "
            "model.path=FOLDER, or set task.beta=0"
        )
    if not isinstance(parts.model, TakesAdapters):
        return [*reasons, f"adapter=lora: got model={parts.model.name}, expected a family with `linear_layers`"]
    try:
        import_peft()
        adapter.chosen(lora.layers_of(parts.model))
        if adapter.path is not None and parts.resume is None:
            lora.stated_settings(Path(adapter.path), adapter)
    except ValueError as error:
        reasons.append(str(error))
    return reasons


def with_base(parts: Parts, checkpoint: Checkpoint, mesh: Mesh) -> Parts:
    """The parts of a resumed run, whose base is read again and whose adapter comes from the checkpoint; a collective.

    A CheckpointError where the base is not what it was, which one rank looks at.
    """
    assert parts.adapter is not None
    base = mesh.from_first(lambda: _base_of(checkpoint), "the weights below the adapter to be verified")
    return replace(parts, weights=base, adapter=replace(parts.adapter, path=None))


def about_base(weights: ModelFolder | None) -> dict[str, str]:
    """What a checkpoint notes of the base of its adapter: where it lies, and a hash of its weights."""
    assert weights is not None
    return {"path": str(weights.place), "sha256": weights.sha256}


def load_adapted(checkpoint: Checkpoint) -> tuple[nn.Module, LoraAdapter, str]:
    """The model of a checkpoint with its adapter on it, on the CPU in fp32, the adapter's settings, and its base."""
    faults: list[str] = []
    adapter = made_group("adapter", checkpoint.about["adapter"], faults, [])
    if adapter is None:
        raise CheckpointError(f"{checkpoint.folder} describes no adapter of this version: {together(faults)}")
    base = _base_of(checkpoint)
    model = base.read(resolve(OpsConfig()))
    lora.put_on(model, base.spec, adapter)
    loaded: Any = read_state(checkpoint)[WEIGHTS]
    check_adapter({PREFIX + name: value for name, value in model.state_dict().items()}, loaded)
    for name, parameter in model.named_parameters():
        if PREFIX + name in loaded:
            loaded[PREFIX + name].read_into(parameter)
    return model, adapter, base.path


def _base_of(checkpoint: Checkpoint) -> ModelFolder:
    stated: Mapping[str, str] = checkpoint.about["base"]
    try:
        found = ModelFolder.find(stated["path"])
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint.folder} holds an adapter, and the model it stands on is not there: {error}; put it back, "
            "or a link to it"
        ) from error
    if found.sha256 != stated["sha256"]:
        raise CheckpointError(
            f"{stated['path']} holds other weights than those that the adapter of {checkpoint.folder} was trained on "
            "(their hash differs); put the old ones back"
        )
    return found
