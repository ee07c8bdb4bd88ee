"""Settings refuse what cannot be, and cut a step into micro-batches."""

from __future__ import annotations

import pytest

from litespark.experiment.settings import (
    CallbacksConfig,
    LoggerConfig,
    MetricsConfig,
    ProjectionConfig,
    TrainerConfig,
)


@pytest.mark.parametrize(
    ("rows", "micro", "ranks", "expected"), [(16, 4, 1, 4), (16, 4, 4, 1), (16, 16, 1, 1), (12, 2, 3, 2)]
)
def test_a_step_is_cut_into_micro_batches_of_all_ranks(rows, micro, ranks, expected):
    assert TrainerConfig(batch_rows=rows).accumulate(micro, ranks) == expected


@pytest.mark.parametrize(("rows", "near"), [(3, 4), (1, 4), (9, 8), (15, 16)])
def test_a_batch_that_does_not_divide_names_one_that_does(rows, near):
    with pytest.raises(
        ValueError, match=rf"got {rows}, expected a multiple of .* = 2 × 2 = 4; set .*batch_rows={near},"
    ):
        TrainerConfig(batch_rows=rows).accumulate(2, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainerConfig(accelerator="tpu"), "trainer.accelerator: got 'tpu', expected auto, cpu or cuda"),
        (
            lambda: TrainerConfig(batch_rows=0),
            "trainer.batch_rows: got 0, expected a whole number of at least 1; set trainer.batch_rows=16",
        ),
        (lambda: TrainerConfig(log_every=0), "trainer.log_every: got 0"),
        (lambda: TrainerConfig(validate_every=0), "trainer.validate_every: got 0"),
        (
            lambda: MetricsConfig(peak_flops=0.0),
            "metrics.peak_flops: got 0.0, expected a number from 1e.09 to 1e.18",
        ),
        (lambda: MetricsConfig(peak_flops=float("nan")), "metrics.peak_flops: got nan"),
        (
            lambda: MetricsConfig(probe_seconds=-1),
            "metrics.probe_seconds: got -1, expected a number from 0 to 60",
        ),
        (lambda: MetricsConfig(warmup_steps=-1), "metrics.warmup_steps"),
        (lambda: MetricsConfig(energy_window_seconds=-1), "metrics.energy_window_seconds"),
        (lambda: ProjectionConfig(tokens=0), "metrics.projection.tokens: got 0"),
        (lambda: ProjectionConfig(pue=0.5), "pue"),
        (lambda: ProjectionConfig(price_per_kwh=-1.0), "price_per_kwh"),
        (lambda: CallbacksConfig(checkpoint_every=0), "callbacks.checkpoint_every: got 0"),
        (lambda: CallbacksConfig(checkpoint_keep=0), "callbacks.checkpoint_keep: got 0"),
        (lambda: CallbacksConfig(sample_tokens=0), "callbacks.sample_tokens: got 0"),
        (lambda: CallbacksConfig(sample_temperature=-0.1), "callbacks.sample_temperature: got -0.1"),
        (lambda: LoggerConfig(extra="paper"), "logger.extra: got 'paper', expected wandb, mlflow or null"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_null_means_not_at_all():
    assert TrainerConfig(validate_every=None).validate_every is None
    assert CallbacksConfig(checkpoint_every=None).checkpoint_every is None
    assert MetricsConfig(peak_flops=None, probe_seconds=0).peak_flops is None
