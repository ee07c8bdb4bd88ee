"""The key of every logged metric, in one place; the unit is part of the name or stated beside it.

Callbacks log under these keys and reports read them back. A metric that was not measured is absent or null, never 0.
"""

from typing import Final

PROGRESS_TOKENS: Final = "progress/tokens"  # input tokens seen by all ranks since the run began, padding excluded
PROGRESS_STEP: Final = "progress/step"  # optimizer updates since the run began

TRAIN_LOSS: Final = "train/loss"  # in the unit of the task: nats per supervised token
LEARNING_RATE: Final = "train/learning_rate"
GRADIENT_NORM: Final = "train/gradient_norm"  # L2 norm over all parameters, before clipping
SKIPPED_STEPS: Final = "train/skipped_steps"  # updates left out because loss or gradient was not finite

TOKENS_PER_SECOND: Final = "throughput/tokens_per_second"  # all ranks together
STEP_MS_MEDIAN: Final = "throughput/step_ms_median"  # milliseconds
STEP_MS_P95: Final = "throughput/step_ms_p95"  # milliseconds
TRAIN_SECONDS: Final = "throughput/train_seconds"  # since the run began, training steps only
DATA_WAIT_SHARE: Final = "throughput/data_wait_share"  # share of the wall clock spent waiting for a batch, 0 to 1
MFU_CAUSAL: Final = "throughput/mfu_causal"  # fraction of the dense peak, attention counted as causal
MFU_FULL: Final = "throughput/mfu_full"  # fraction of the dense peak, attention counted as full
HFU_CAUSAL: Final = "throughput/hfu_causal"  # as MFU_CAUSAL, recomputed activations counted too
MFU_MEASURED_PEAK: Final = "throughput/mfu_measured_peak"  # as MFU_CAUSAL, against the matmul peak measured here
MEASURED_PEAK_FLOPS: Final = "throughput/measured_peak_flops"  # FLOP/s a device: that peak, as it was known then

PEAK_MEMORY_GIB: Final = "memory/peak_gib"  # GiB allocated on the fullest device

JOULES_PER_TOKEN: Final = "energy/joules_per_token"
POWER_WATTS: Final = "energy/power_watts"  # mean over the window, all devices together
JOULES_PER_EXAMPLE: Final = "energy/joules_per_example"  # a pair or completion: steps, rollouts, rewards; of the run
ROLLOUT_JOULES: Final = "energy/rollout_joules"  # since the run began
TRAIN_JOULES: Final = "energy/train_joules"  # since the run began, training steps only
ALL_IN_JOULES: Final = "energy/all_in_joules"  # since the run began, every phase and lost steps included

# shares, 0 to 1, of the steps that counted since the last row; each but the last has a key for every block
FP8_OVERFLOW: Final = "fp8/overflow"  # of the values of the tensor that saturates most
FP8_UNDERFLOW: Final = "fp8/underflow"  # of the values, not zero themselves, of the tensor of which most become zero
FP8_LINEARS: Final = "fp8/linears"  # of the linear layers that the settings compute in fp8, those that now are

VALIDATION_LOSS: Final = "validation/loss"  # in the unit of the task: nats per supervised token
VALIDATION_PERPLEXITY: Final = "validation/perplexity"
VALIDATION_BITS_PER_BYTE: Final = "validation/bits_per_byte"
VALIDATION_TOKEN_ACCURACY: Final = "validation/token_accuracy"  # share of supervised tokens predicted by argmax, 0 to 1


def of_train(name: str) -> str:
    """The key of what a task observes in its training steps."""
    return f"train/{name}"


def of_domain(key: str, domain: str) -> str:
    """The key of a validation metric over the sequences of one domain; logged where the data has several."""
    return f"{key}/{domain}"


def of_block(key: str, block: str) -> str:
    """The key of a metric of one block, "blocks.3"."""
    return f"{key}/{block}"
