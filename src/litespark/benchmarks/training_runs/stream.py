"""What all runs of a benchmark train, and on what."""

from __future__ import annotations

from litespark.data.streaming import build_data_module
from litespark.experiment.build import check_vocabulary, token_budget
from litespark.experiment.config import Parts
from litespark.metrics.records.training_runs import TrainedModel, TrainedStream


def model_and_stream(parts: Parts) -> tuple[TrainedModel, TrainedStream]:
    """Those of `parts`, which validate; prepares the text where that was not done before.

    Raises:
        ValueError: the text or its vocabulary do not fit.
    """
    data = build_data_module(parts.data, seed=parts.seed)
    check_vocabulary(parts, data.manifest)
    assert parts.trainer.validate_every is not None
    return TrainedModel(parts.model.name, parts.model.parameter_count()), TrainedStream(
        name=data.manifest.name,
        manifest_hash=data.manifest.hash,
        sequence_length=parts.data.sequence_length,
        batch_rows=parts.trainer.batch_rows,
        validation_rows=parts.data.validation_rows,
        validate_every=parts.trainer.validate_every,
        budget_tokens=token_budget(parts, data.manifest).planned_tokens(),
    )
