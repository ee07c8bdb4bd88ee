"""From a profiler's events to the time of kernels, or on a CPU of ops, each with the ops that launched it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.autograd import DeviceType


@dataclass(frozen=True)
class Busy:
    """Work of one kernel, or on a CPU of one op without the ops inside it.

    Attributes:
        launched_by: names of ops and annotations around it, innermost first.
        forward: of a backward op: the same of the forward op that it differentiates, itself first.
    """

    milliseconds: float
    name: str
    launched_by: tuple[str, ...] = ()
    forward: tuple[str, ...] = ()


def work_of(events: Sequence[Any], device: str) -> list[Busy]:
    """What the device did, of the `FunctionEvent`s of a profiler; a ValueError where it did nothing.

    On "cpu" the own time of each op, else kernels and copies of the accelerator, also those whose launch was not seen.
    """
    host = [event for event in events if event.device_type == DeviceType.CPU and not event.is_async]
    forward_of = _forward_ops(host)
    work: list[Busy] = []
    for event in host:
        around = list(_outwards(event))
        forward = next((forward_of[id(op)] for op in around if id(op) in forward_of), None)
        names = tuple(op.name for op in around)
        if device == "cpu" and not event.is_user_annotation:
            work.append(Busy(event.self_cpu_time_total / 1e3, event.name, names[1:], _names(forward)))
        elif device != "cpu":
            work += [Busy(done.duration / 1e3, done.name, names, _names(forward)) for done in event.kernels]
    if device != "cpu":
        launched = Counter((done.name, done.milliseconds) for done in work)
        on_device = [event for event in events if event.device_type != DeviceType.CPU and not event.is_user_annotation]
        done = Counter((event.name, (event.time_range.end - event.time_range.start) / 1e3) for event in on_device)
        work += [Busy(milliseconds, name) for name, milliseconds in (done - launched).elements()]
    if not work:
        raise ValueError(f"trace: got no work of the {device} within the steps, expected some; was it profiled?")
    return work


def _forward_ops(host: Iterable[Any]) -> dict[int, Any]:
    """By the identity of a backward op the op that it differentiates, by autograd's sequence numbers.

    Of forward ops with one number the one that began last made the node; backward ops have the thread of theirs.
    """
    numbered = sorted((event for event in host if event.sequence_nr >= 0), key=lambda event: event.time_range.start)
    forward = {(event.thread, event.sequence_nr): event for event in numbered if not event.fwd_thread}
    pairs = ((event, forward.get((event.fwd_thread, event.sequence_nr))) for event in numbered if event.fwd_thread)
    return {id(event): source for event, source in pairs if source is not None}


def _outwards(event: Any) -> Iterator[Any]:
    """An op and all around it, innermost first."""
    while event is not None:
        yield event
        event = event.cpu_parent


def _names(event: Any) -> tuple[str, ...]:
    return tuple(op.name for op in _outwards(event))
