"""What a layer costs the host, forward and backward: `python -m litespark.benchmarks.host_time`.

Host time with stubbed launches: our kernels are not launched, and the sizes are so small that what PyTorch computes on
the CPU is little. What is left is Python, PyTorch's dispatcher and autograd, as the host of a GPU has them, without
Triton's own part of a launch. It is no time of a GPU, and matters where a step waits for its host.

A layer is the difference of two depths. All variants take turns in one process with one thread, whose own time is
taken; the table has medians, and ratios to Hugging Face's eager model.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from litespark.benchmarks.step.huggingface import build_model
from litespark.device import device_of
from litespark.models.llama.config import LlamaConfig
from litespark.models.llama.model import Llama
from litespark.ops.backend import OpsConfig, resolve
from litespark.ops.launches import intercepted
from litespark.ops.linear.kept import accumulate_in_place, keep_casts

CPU = torch.device("cpu")
# by the attention of each, which is the last word
BASELINE = "Hugging Face, eager"
VARIANTS = ("ours, triton", "ours, sdpa", "Hugging Face, sdpa", BASELINE)
DEPTHS = (2, 10)
# more of any of them, and oneDNN takes longer for a product in bf16 than all that is measured
TOKENS, HIDDEN, VOCABULARY = 4, 16, 32
# steps before the first that counts: weights are cast, and PyTorch meets each size
WARM_UP = 4


def measure(precision: str, rounds: int) -> dict[str, float]:
    """Variant -> microseconds of the host a layer, by the medians of `rounds` steps of either depth."""
    steps = {name: [step(name, layers, precision) for layers in DEPTHS] for name in VARIANTS}
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in VARIANTS}
    for turn in range(WARM_UP + rounds):
        for name, both in steps.items():
            for taken, take in zip(seconds[name], both, strict=True):
                elapsed = take()
                taken += [elapsed] if turn >= WARM_UP else []
    layers = DEPTHS[1] - DEPTHS[0]
    medians = {name: [statistics.median(taken) for taken in both] for name, both in seconds.items()}
    return {name: (deep - shallow) / layers * 1e6 for name, (shallow, deep) in medians.items()}


def step(name: str, layers: int, precision: str) -> Callable[[], float]:
    """A call of it takes a new model once forward and backward, and gives the seconds of this thread."""
    model = _model(name, layers, precision).train()
    tokens, labels = (torch.randint(VOCABULARY, (1, TOKENS)) for _ in range(2))
    given = {"labels": labels}
    if not isinstance(model, Llama):
        given |= {"shift_labels": labels, "num_items_in_batch": torch.tensor(TOKENS)}

    def take() -> float:
        model.zero_grad(set_to_none=True)
        begun = time.thread_time()
        with device_of(CPU).autocast(torch.bfloat16 if precision == "bf16" else None):
            output = model(tokens, **given)
        (output if isinstance(model, Llama) else output.loss).backward()
        return time.thread_time() - begun

    return take


def _model(name: str, layers: int, precision: str) -> nn.Module:
    config = LlamaConfig("host", HIDDEN, layers, 2, 1, 2 * HIDDEN, VOCABULARY, max_seq_len=TOKENS)
    attention = name.split()[-1]
    if not name.startswith("ours"):
        return build_model(config, attention, CPU)
    ops = OpsConfig("triton", "triton", "triton", "triton", attention=attention, linear_cross_entropy="triton")
    model = Llama(config, resolve(ops))
    # as a single process on a GPU trains by its defaults
    model.residual_dtype = torch.bfloat16 if precision == "bf16" else None
    keep_casts(model)
    accumulate_in_place(model)
    return model


def stub(*_: object, **__: object) -> None:
    """In place of a launch."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; `--precision` bf16 (autocast) or fp32, `--rounds` steps of each model."""
    parser = argparse.ArgumentParser(description="Host time a layer with stubbed launches")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    gc.disable()
    with intercepted(stub):
        found = measure(options.precision, options.rounds)
    gc.enable()
    print(f"Host time with stubbed launches, {options.precision}, one thread\n")
    print("| variant, attention | µs a layer | of eager |\n|---|---|---|")
    for name, value in found.items():
        print(f"| {name} | {value:.0f} | {value / found[BASELINE]:.2f} |")


if __name__ == "__main__":
    main()
