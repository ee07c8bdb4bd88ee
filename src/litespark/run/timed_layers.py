"""A few layers of a run's model, timed as a run would compute them: by these `auto` decides whole settings on a CPU."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch

import litespark
from litespark.models.compilation import CompileMode
from litespark.models.spec import with_layers
from litespark.ops.backend import BACKENDS, REFERENCE, Ops, load
from litespark.ops.choice import reason_against
from litespark.ops.measuring import Remembered, default_cache
from litespark.ops.shapes import Place
from litespark.ops.timing import Name, interleaved_milliseconds
from litespark.run.config import Parts
from litespark.run.precision import step_shapes
from litespark.training.model_builder import ModelBuilder
from litespark.training.parallel.precision import Precision, activation_dtype, forward_context, residual_dtype

# so many layers with embedding, head and loss, on at most so many tokens; for about so many seconds, or the fewest
# repeats, all of which come to about two steps of the run
_LAYERS, _TOKENS, _SECONDS, _REPEATS = 2, 1024, 0.3, 3


class TimedLayers:
    """Forward and backward of a model cut to a few layers, on a part of the micro-batch; for a model with our ops."""

    def __init__(self, parts: Parts, device: torch.device) -> None:
        model = with_layers(parts.model, min(_LAYERS, parts.model.num_layers))
        length = min(parts.data.seq_len, _TOKENS)
        sequences = min(parts.data.micro_batch_size, _TOKENS // length)
        self.cut = replace(parts, model=model, data=replace(parts.data, seq_len=length, micro_batch_size=sequences))
        self.shapes = step_shapes(self.cut)
        self.device = device
        self.what = (
            f"forward and backward of {model.num_layers} of {parts.model.num_layers} layers with the head, over "
            f"{sequences} x {length} tokens,"
        )

    def remembered(self, setting: str) -> Remembered:
        """The place of what was measured to decide a setting for the same layers, ops and number of threads."""
        facts = {
            "setting": setting,
            "model": repr(self.cut.model),
            "shapes": asdict(self.shapes),
            "ops": self.cut.ops.backends(),
            "recompute": self.cut.recompute,
            "stream": self.cut.residual,
            "threads": torch.get_num_threads(),
        }
        return Remembered(default_cache(), self.device, facts, Path(litespark.__file__).parent / "models")

    def step(self, precision: Precision, compile_mode: CompileMode = "none") -> Callable[[], object]:
        """A run of forward and backward, of random tokens."""
        cut, device, shape = self.cut, self.device, (self.shapes.sequences, self.shapes.length)
        stream = residual_dtype(cut.residual, precision, device)
        builder = ModelBuilder(
            cut.model, self._ops(precision), cut.seed, cut.recompute, residual_dtype=stream, compile_mode=compile_mode
        )
        model = builder.build(device)
        tokens, labels = (torch.randint(cut.model.vocab_size, shape, device=device) for _ in range(2))
        layout = {}
        if self.shapes.documents:  # two in each sequence, for which PyTorch takes another kernel than without any
            documents = torch.arange(2, dtype=torch.int32, device=device).repeat_interleave(-(-shape[1] // 2))
            layout = {"documents": documents[: shape[1]].expand(shape).contiguous()}

        def step() -> object:
            with forward_context(precision, device):
                loss = model(tokens, labels, **layout)
            loss.backward()
            model.zero_grad(set_to_none=True)
            return loss

        return step

    def _ops(self, precision: Precision) -> Ops:
        """The ops of the run; for `auto`, and what is only for tests on a CPU, the first that gives speed."""
        place = Place(self.device, activation_dtype(precision, self.device), self.shapes)
        names = {"fp8": REFERENCE}
        for op, asked in self.cut.ops.backends().items():
            if op != "fp8":
                able = [name for name in BACKENDS[op] if reason_against(op, name, place) is None]
                names[op] = asked if asked in able else able[0]
        return Ops(**{op: load(op, name) for op, name in names.items()})


def least_milliseconds(runs: Mapping[Name, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Of each run the least of its repeats: what else runs on a shared processor only adds."""
    times = interleaved_milliseconds(runs, device, seconds=_SECONDS, least_repeats=_REPEATS)
    return {name: min(repeats) for name, repeats in times.items()}
