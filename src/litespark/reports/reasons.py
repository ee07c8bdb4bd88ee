"""Why a figure is absent from a run: every blank in a table, picture or report gets its reason from here."""

from litespark.reports.quantities import percent
from litespark.run.record import RunRecord

TOO_SHORT = "the run ended before it could be measured"
NO_VALIDATION = "no validation ran"
RANDOM_IDS = "the ids of synthetic data are random and stand for no text"
PROBE_DISTURBED = "training was faster than the matmul probe, so other programs disturbed the probe"


def no_peak(record: RunRecord) -> str:
    """Why there is no MFU against a vendor's peak."""
    speed = record.throughput
    if speed.tokens_per_second is None:
        return TOO_SHORT
    if speed.peak_flops is not None:
        stated = " (metrics.peak_flops is too low)" if "metrics.peak_flops" in (speed.peak_source or "") else ""
        return f"it came out above what the device can do{stated}, so it is withdrawn"
    devices = ", ".join(dict.fromkeys(device.name for device in record.environment.devices)) or "this device"
    return f"no dense peak is known for {devices}; metrics.peak_flops sets one"


def no_measured_peak(record: RunRecord) -> str:
    """Why there is no MFU against the peak that was measured."""
    if record.throughput.measured_peak_flops is None:
        return "no matmul peak was measured"
    return TOO_SHORT if record.throughput.tokens_per_second is None else PROBE_DISTURBED


def no_bits_per_byte(record: RunRecord) -> str:
    """Why there are no bits per byte."""
    data = record.data
    # `data=synthetic` calls itself so
    if data.unigram_entropy is not None and data.name == "synthetic" and data.unigram_bits_per_byte is None:
        return RANDOM_IDS
    return no_metric(record, "the byte lengths of the tokens are not known")


def no_metric(record: RunRecord, otherwise: str = NO_VALIDATION) -> str:
    """Why a metric of pre-training is absent."""
    if record.quality.validation_loss is None:
        return NO_VALIDATION
    return otherwise if record.data.unigram_entropy is not None else f"the task {record.task} does not measure it"


def no_energy(record: RunRecord) -> str:
    """Why there is no energy, as the record has it."""
    return record.energy.reason or "the record gives no reason"


def coverage(fraction: float | None) -> str:
    """How many of the devices in use had their energy read."""
    if fraction is None:
        return "which devices were read is not recorded"
    return "all devices in use were read" if fraction == 1 else f"{percent(fraction)} of the devices in use were read"
