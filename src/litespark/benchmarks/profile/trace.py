"""From a profiler's trace to intervals in which a device was busy, each with the ops that launched it.

The trace is what `torch.profiler` exports: events with `cat`, `name`, `ts` and `dur` in microseconds, `tid`, and flows
that tie a launch to its kernel (`correlation`) and an op to the op that it differentiates (`fwdbwd`).
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

WINDOW = "litespark.profile"

_EVALUATION = "autograd::engine::evaluate_function"
_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_LAUNCH = ("cuda_runtime", "cuda_driver")
_HOST = ("cpu_op", "user_annotation")


@dataclass(frozen=True)
class Busy:
    """One stretch of work of a kernel, or on a CPU of an op, in microseconds from the start of the window.

    Attributes:
        launched_by: names of ops and annotations around it, innermost first.
        forward: of a backward op: the same of the forward op that it differentiates, itself first.
        call: distinguishes the calls of one name; an op whose children interrupt it has several stretches.
    """

    start: float
    end: float
    name: str
    launched_by: tuple[str, ...]
    forward: tuple[str, ...]
    call: int


@dataclass
class _Op:
    name: str
    start: float
    end: float
    thread: object
    annotation: bool
    number: int
    parent: _Op | None = None
    forward: _Op | None = None
    children: list[_Op] = field(default_factory=list)

    def outwards(self) -> list[_Op]:
        """This op and all around it, innermost first."""
        return [self, *(self.parent.outwards() if self.parent is not None else ())]

    def ops_within(self) -> Iterator[_Op]:
        """The nearest ops inside, whatever annotations lie between."""
        for child in self.children:
            yield from child.ops_within() if child.annotation else (child,)


def busy_intervals(events: Sequence[Mapping[str, Any]], device: str) -> tuple[float, list[Busy]]:
    """Milliseconds of the window, and what the device did in it.

    Args:
        events: `traceEvents` of an exported trace, with one annotation named `WINDOW` around the steps.
        device: "cpu": each op without the ops inside it; else kernels and copies of the accelerator.
    """
    whole = [event for event in events if event.get("ph") == "X"]
    windows = [event for event in whole if event.get("cat") == "user_annotation" and event["name"] == WINDOW]
    if len(windows) != 1:
        raise ValueError(f"trace: got {len(windows)} annotations named {WINDOW}, expected one around the steps")
    begin, length = windows[0]["ts"], windows[0]["dur"]
    threads = _host_ops([event for event in whole if event.get("cat") in _HOST and event["name"] != WINDOW])
    _link_backward(threads, events)
    intervals = _self_times(threads) if device == "cpu" else _device_work(whole, threads)
    inside = []
    for event in intervals:
        start, end = max(0.0, event.start - begin), min(length, event.end - begin)
        if end > start:
            inside.append(replace(event, start=start, end=end))
    if not inside:
        raise ValueError(f"trace: got no work of the {device} within the steps, expected some; was it profiled?")
    return length / 1e3, inside


def shares(intervals: Sequence[Busy]) -> list[float]:
    """Milliseconds that each interval is charged with: an instant that several share is divided among them."""
    borders: list[tuple[float, int, int]] = []
    for number, interval in enumerate(intervals):
        borders += [(interval.start, 1, number), (interval.end, 0, number)]
    charged = [0.0] * len(intervals)
    active: set[int] = set()
    last = 0.0
    for time, begins, number in sorted(borders):
        for busy in active:
            charged[busy] += (time - last) / len(active) / 1e3
        last = time
        if begins:
            active.add(number)
        else:
            active.discard(number)
    return charged


def _host_ops(events: Sequence[Mapping[str, Any]]) -> dict[object, list[_Op]]:
    """Ops of each thread in the order of their starts, each with its parent."""
    threads: dict[object, list[_Op]] = defaultdict(list)
    for number, begun in enumerate(sorted(events, key=lambda event: (event["ts"], -event["dur"]))):
        start, annotation = begun["ts"], begun["cat"] == "user_annotation"
        threads[begun["tid"]].append(_Op(begun["name"], start, start + begun["dur"], begun["tid"], annotation, number))
    for ops in threads.values():
        open_ops: list[_Op] = []
        for op in ops:
            while open_ops and open_ops[-1].end <= op.start:
                open_ops.pop()
            if open_ops:
                op.parent = open_ops[-1]
                op.end = min(op.end, op.parent.end)  # times are rounded to nanoseconds
                op.parent.children.append(op)
            open_ops.append(op)
    return threads


def _link_backward(threads: Mapping[object, list[_Op]], events: Sequence[Mapping[str, Any]]) -> None:
    """Tie each backward op to its forward op, as the profiler found them by autograd's sequence numbers."""
    starts = {(op.thread, op.start): op for ops in threads.values() for op in ops if not op.annotation}
    flows = [event for event in events if event.get("cat") == "fwdbwd"]
    sources = {event["id"]: starts.get((event["tid"], event["ts"])) for event in flows if event["ph"] == "s"}
    for event in flows:
        target = starts.get((event["tid"], event["ts"])) if event["ph"] == "f" else None
        if target is None or (source := sources.get(event["id"])) is None:
            continue
        target.forward = source
        # the engine sums gradients beside the op that it evaluates
        if target.parent is not None and target.parent.name.startswith(_EVALUATION):
            target.parent.forward = source


def _self_times(threads: Mapping[object, list[_Op]]) -> Iterator[Busy]:
    for ops in threads.values():
        for op in ops:
            if op.annotation:
                continue
            around, at = op.outwards(), op.start
            names, forward = _names(around[1:]), _forward(around)
            for child in op.ops_within():
                if child.start > at:
                    yield Busy(at, child.start, op.name, names, forward, op.number)
                at = max(at, child.end)
            if op.end > at:
                yield Busy(at, op.end, op.name, names, forward, op.number)


def _device_work(events: Sequence[Mapping[str, Any]], threads: Mapping[object, list[_Op]]) -> Iterator[Busy]:
    launches = {event.get("args", {}).get("correlation"): event for event in events if event.get("cat") in _LAUNCH}
    for number, event in enumerate(work for work in events if work.get("cat") in _DEVICE):
        launch = launches.get(event.get("args", {}).get("correlation"))
        around = [] if launch is None else _enclosing(threads.get(launch["tid"], []), launch["ts"])
        yield Busy(event["ts"], event["ts"] + event["dur"], event["name"], _names(around), _forward(around), number)


def _names(ops: Sequence[_Op]) -> tuple[str, ...]:
    return tuple(op.name for op in ops)


def _forward(around: Sequence[_Op]) -> tuple[str, ...]:
    """Names of the forward op that the nearest of these ops differentiates, and of what is around it."""
    forward = next((op.forward for op in around if op.forward is not None), None)
    return () if forward is None else _names(forward.outwards())


def _enclosing(ops: Sequence[_Op], time: float) -> list[_Op]:
    """The ops of a thread, in the order of their starts, that are under way at a time, innermost first."""
    position = bisect_right(ops, time, key=lambda op: op.start) - 1
    around = ops[position].outwards() if position >= 0 else []
    return list(itertools.dropwhile(lambda op: op.end < time, around))
