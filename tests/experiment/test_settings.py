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
    assert TrainerConfig(global_batch_size=rows).accumulate(micro, ranks) == expected


@pytest.mark.parametrize(
    ("rows", "asked", "ranks", "fitting"),
    [(8, 8, 1, 8), (8, 8, 2, 4), (8, 3, 1, 2), (12, 5, 2, 3), (14, 4, 1, 2), (26, 8, 2, 1), (4, 100, 2, 2)],
)
def test_the_largest_micro_batch_that_makes_whole_steps_on_all_ranks(rows, asked, ranks, fitting):
    assert TrainerConfig(global_batch_size=rows).fitting_micro_batch(asked, ranks) == fitting
    assert rows == TrainerConfig(global_batch_size=rows).accumulate(fitting, ranks) * fitting * ranks


def test_micro_batches_that_do_not_make_the_batch_are_refused():
    with pytest.raises(ValueError, match=r"micro_batch_size: got 8, .* 2 processes .* set data\.micro_batch_size=4"):
        TrainerConfig(global_batch_size=8).accumulate(8, 2)


@pytest.mark.parametrize(
    ("rows", "ranks", "start", "near"),
    [
        (3, 2, r"python train\.py strategy=single", 4),
        (6, 4, r"torchrun --nproc-per-node=3 train\.py", 8),
        (1, 2, r"python train\.py strategy=single", 2),
    ],
)
def test_a_batch_that_ranks_do_not_divide_names_what_trains_the_same_and_a_batch_that_they_do(rows, ranks, start, near):
    with pytest.raises(
        ValueError,
        match=rf"got {rows} rows in a step and {ranks} processes, expected a multiple of {ranks}; {start} "
        rf"trains the same .* set trainer\.global_batch_size={near}$",
    ):
        TrainerConfig(global_batch_size=rows).accumulate(1, ranks)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainerConfig(accelerator="tpu"), "trainer.accelerator: got 'tpu', expected auto, cpu, gpu, mps, xpu"),
        (
            lambda: TrainerConfig(global_batch_size=0),
            "trainer.global_batch_size: got 0, expected a whole number of at least 1; set trainer.global_batch_size=16",
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
