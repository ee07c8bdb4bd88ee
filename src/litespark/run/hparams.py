"""What the HParams tab of TensorBoard shows of a run: settings, what was set first, beside what it came to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from litespark.config.groups import on_resume
from litespark.config.settings import NOT_COMPARED
from litespark.metrics import names
from litespark.run.folder import flatten

RESULTS = (
    *(names.VALIDATION_LOSS, names.VALIDATION_BITS_PER_BYTE, names.TRAIN_LOSS, names.TOKENS_PER_SECOND),
    *(names.MFU_CAUSAL, names.MFU_MEASURED_PEAK, names.JOULES_PER_TOKEN),
)


def settings_shown(resolved: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The settings of a run by `group/key`, names and folders left out: what `overrides` set, then all others."""
    plain = {
        key: value
        for key, value in flatten(dict(resolved)).items()
        if on_resume(key) is not NOT_COMPARED and not key.endswith("_target_") and value not in (None, {}, [])
    }
    given = [override.lstrip("+").partition("=")[0] for override in overrides]
    return {
        key.replace(".", "/"): plain[key] if isinstance(plain[key], bool | int | float | str) else str(plain[key])
        for key in dict.fromkeys((*given, *plain))
        if key in plain
    }


def write_hparams(logger: TensorBoardLogger, shown: dict[str, Any], logged: Iterable[str]) -> None:
    """Write the settings; the results beside them are the last values of the curves that are there already."""
    logger.hparams.update(shown)
    # not through the logger, which would add a single point to each curve
    for summary in hparams(shown, {tag: 0.0 for tag in RESULTS if tag in set(logged)}):
        logger.experiment._get_file_writer().add_summary(summary)
