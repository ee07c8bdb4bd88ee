"""Log-probabilities of the reference model: read from the run's folder or the cache, or computed, once."""

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from litespark.callbacks.phases import Phases
from litespark.callbacks.steps import StepCallback
from litespark.run.folder import REFERENCE
from litespark.training.module import TrainingModule
from litespark.training.reference import Reference, compute_reference, hash_of_weights, reference_key

log = logging.getLogger(__name__)


class ReferenceModel(StepCallback):
    """Gives the module what the reference model makes of the examples, before the first step and before any validation.

    Args:
        folder: the run's. cache: a folder that runs share. about: what the values depend on beside data and weights.
    """

    def __init__(self, folder: Path, cache: Path, *, phases: Phases, about: dict[str, Any]) -> None:
        super().__init__()
        self.path = folder / REFERENCE
        self.cache = cache
        self.phases = phases
        self.about = about

    def train_started(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # not annotated in Lightning
        of_data = {name: getattr(data, name) for name in ("train_sequences", "seq_len")}
        of_data["manifest_hash"] = data.manifest.hash
        mesh = module.mesh
        reference = mesh.from_first(lambda: Reference.read(self.path), "the reference's log-probabilities")
        if reference is None:
            if module.steps_taken:
                raise ValueError(
                    f"{self.path} is lost: the log-probabilities of the reference model, which was the policy before "
                    f"the first step; at step {module.steps_taken} nothing can compute them again. Put the file back "
                    f"(one of {self.cache} is the same), or start a new run from these weights"
                )
            with self.phases.during("reference"):
                reference = self._made(trainer, module, data, of_data)
        if reference.data != of_data:
            raise ValueError(
                f"{self.path} holds log-probabilities of a reference model over {reference.data}, and this run has "
                f"{of_data}; resume with the same data, or start a new run"
            )
        module.reference = reference.to(module.device)

    def _made(self, trainer: pl.Trainer, module: TrainingModule, data: Any, of_data: dict[str, Any]) -> Reference:
        assert module.model is not None
        mesh = module.mesh
        depends = {"weights": hash_of_weights(module.model, mesh), **of_data, **self.about}
        cached = self.cache / f"{reference_key(depends)}.npz"
        reference = mesh.from_first(lambda: Reference.read(cached), "the reference's log-probabilities")
        if reference is None:
            log.info("computing the log-probabilities of the reference model, once: the policy as it is now")
            batches = {"train": data.training_once(), "validation": data.validation_once()}
            context = trainer.precision_plugin.forward_context
            reference = compute_reference(
                module.model, batches, of_data, device=module.device, mesh=mesh, forward_context=context
            )
            mesh.from_first(lambda: reference.write(cached), "the reference's log-probabilities to be written")
        mesh.from_first(lambda: reference.write(self.path), "the reference's log-probabilities to be written")
        return reference
