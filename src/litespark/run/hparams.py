"""What the HParams tab of TensorBoard shows of a run: settings, those that matter first, beside what it came to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from litespark.metrics import names
from litespark.run.folder import flatten

GROUPS = ("model", "ops", "precision", "recompute", "data", "optim", "schedule", "strategy", "budget", "trainer")
# behind what the command line set
FIRST = (
    *("optim.lr", "model.name", "model.num_layers", "model.hidden_size", "trainer.global_batch_size", "data.seq_len"),
    *("budget.tokens", "budget.steps", "seed", "precision.name", "schedule.warmup", "optim.weight_decay"),
    *("data.micro_batch_size", "strategy.name", "recompute.mode"),
)
RESULTS = (
    *(names.VALIDATION_LOSS, names.VALIDATION_BITS_PER_BYTE, names.TRAIN_LOSS, names.TOKENS_PER_SECOND),
    *(names.MFU_CAUSAL, names.MFU_MEASURED_PEAK, names.JOULES_PER_TOKEN),
)


def settings_shown(resolved: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The settings of a run by `group/key`: what `overrides` set, then what matters most, then all others.

    Args:
        resolved: the whole config.
        overrides: of the command line.
    """
    flat = flatten({"seed": resolved["seed"], **{group: resolved[group] for group in GROUPS}})
    plain = {key: value for key, value in flat.items() if not key.endswith("_target_") and value not in (None, {}, [])}
    said = [override.lstrip("+").partition("=")[0] for override in overrides]
    ordered = dict.fromkeys(key for key in (*said, *FIRST, *plain) if key in plain)
    return {
        key.replace(".", "/"): plain[key] if isinstance(plain[key], bool | int | float | str) else str(plain[key])
        for key in ordered
    }


def write_hparams(logger: TensorBoardLogger, shown: dict[str, Any], logged: Iterable[str]) -> None:
    """Write the settings; the results beside them are the last values of curves that are there already.

    Args:
        logger: of the run, on rank 0.
        shown: of `settings_shown`.
        logged: the metrics that the run has.
    """
    tags: Sequence[str] = [tag for tag in RESULTS if tag in set(logged)]
    logger.hparams.update(shown)
    # not through the logger, which would add a single point to each curve
    for summary in hparams(shown, dict.fromkeys(tags, 0.0)):
        logger.experiment._get_file_writer().add_summary(summary)
