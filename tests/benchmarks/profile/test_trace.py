"""Hand-made traces, times in microseconds: what was busy, what launched it, and that the times add up."""

import pytest

from litespark.benchmarks.profile.classes import CLASSES, scope
from litespark.benchmarks.profile.process import by_class
from litespark.benchmarks.profile.trace import WINDOW, Busy, busy_intervals, shares

MAIN, ENGINE = 7, 8
BEGIN = 1000.0


def event(category, name, start, length, thread=MAIN, **arguments):
    return {"ph": "X", "cat": category, "name": name, "ts": BEGIN + start, "dur": length, "tid": thread,
            "args": arguments}  # fmt: skip


def flow(phase, number, start, thread):
    return {"ph": phase, "cat": "fwdbwd", "name": "fwdbwd", "id": number, "ts": BEGIN + start, "tid": thread}


def op(name, start, length, thread=MAIN):
    return event("cpu_op", name, start, length, thread)


def launched(number, at, name, start, length, thread=MAIN, category="kernel"):
    """A launch and what it launched, on a stream."""
    return [
        event("cuda_runtime", "cudaLaunchKernel", at, 1, thread, correlation=number),
        event(category, name, start, length, "stream 7", correlation=number),
    ]


WINDOW_EVENT = event("user_annotation", WINDOW, 0, 100)

# forward: a norm of two plain kernels and a product; backward on another thread; an optimizer nobody annotated
GPU = [
    {"ph": "M", "name": "process_name"},
    WINDOW_EVENT,
    event("gpu_user_annotation", WINDOW, 0, 100, "stream 7"),
    event("user_annotation", scope("norm"), 1, 8),
    op("aten::mul", 2, 6),
    *launched(1, 3, "elementwise", 10, 10),
    op("aten::mm", 10, 5),
    *launched(2, 11, "nvjet_tst_128x256", 20, 30),
    flow("s", 1, 2, MAIN),
    op("autograd::engine::evaluate_function: MulBackward0", 16, 8, ENGINE),
    op("MulBackward0", 17, 5, ENGINE),
    flow("f", 1, 17, ENGINE),
    op("aten::mul", 18, 3, ENGINE),
    *launched(3, 19, "elementwise", 50, 5, ENGINE),
    op("aten::add_", 22.5, 1, ENGINE),
    *launched(4, 23, "elementwise", 55, 5, ENGINE),
    *launched(5, 30, "multi_tensor_apply_kernel<FusedAdam>", 70, 10),
    *launched(6, 40, "Memcpy DtoD (Device -> Device)", 75, 10, category="gpu_memcpy"),
    # launched before the window, ends in it; and after it
    *launched(7, -50, "elementwise", -5, 7),
    *launched(8, 60, "elementwise", 98, 10),
    # its launch was not seen
    event("kernel", "elementwise", 90, 2, "stream 7", correlation=99),
]


def test_kernels_are_found_with_what_launched_them():
    wall, busy = busy_intervals(GPU, "cuda")
    assert wall == pytest.approx(0.1)
    found = {each.start: each for each in busy}
    assert found[10].launched_by == ("aten::mul", scope("norm"))
    assert found[20].launched_by == ("aten::mm",)
    assert found[50].launched_by[:2] == ("aten::mul", "MulBackward0")
    assert found[50].forward == ("aten::mul", scope("norm"))
    # a sum of gradients beside the node is tied to its forward op too
    assert found[55].launched_by == ("aten::add_", "autograd::engine::evaluate_function: MulBackward0")
    assert found[55].forward == ("aten::mul", scope("norm"))
    assert found[90].launched_by == ()
    # cut to the window
    assert (found[0].end, found[98].end) == (2, 100)


def test_classes_and_idle_are_the_wall_time():
    wall, busy = busy_intervals(GPU, "cuda")
    classes = {each.kernel_class: each for each in by_class(wall, busy, steps=2)}
    microseconds = {name: 2e3 * each.milliseconds for name, each in classes.items()}  # of both steps
    # norm: 10 forward, 5 backward and the 5 of its gradient's sum; 70-80 and 75-85 share five microseconds
    expected = {"norm": 20, "gemm": 30, "optimizer": 7.5, "copies": 7.5, "other": 2 + 2 + 2, "idle": 100 - 71}
    assert microseconds == pytest.approx(dict.fromkeys(CLASSES, 0) | expected)
    assert list(classes) == [*CLASSES, "idle"]
    (kernel, *_) = classes["norm"].kernels
    assert (kernel.name, kernel.launched_by, kernel.calls) == ("elementwise", "aten::mul", 1)


def test_an_op_of_the_cpu_has_the_time_that_its_children_leave():
    events = [
        WINDOW_EVENT,
        op("aten::linear", 10, 40),
        event("user_annotation", scope("norm"), 12, 30),
        op("aten::mm", 15, 20),
        op("aten::t", 36, 2),
        op("aten::silu", 60, 10),
    ]
    wall, busy = busy_intervals(events, "cpu")
    times = {}
    for each, charged in zip(busy, shares(busy), strict=True):
        times[each.name] = times.get(each.name, 0) + 1e3 * charged
    # linear: 10-15, 35-36 and 38-50; the annotation is no work of its own
    assert times == pytest.approx({"aten::linear": 18, "aten::mm": 20, "aten::t": 2, "aten::silu": 10})
    assert {each.call for each in busy if each.name == "aten::linear"} == {busy[0].call}
    classes = by_class(wall, busy, steps=1)
    assert next(each for each in classes if each.kernel_class == "idle").milliseconds == pytest.approx(0.05)
    assert sum(each.milliseconds for each in classes) == pytest.approx(wall)
    (linear, *_) = [kernel for each in classes for kernel in each.kernels if kernel.name == "aten::linear"]
    assert linear.calls == 1


def test_two_threads_at_once_share_the_time():
    intervals = [Busy(0, 10, "a", (), (), 0), Busy(5, 15, "b", (), (), 1), Busy(5, 7, "c", (), (), 2)]
    assert [1e3 * each for each in shares(intervals)] == pytest.approx([5 + 2 / 3 + 1.5, 2 / 3 + 1.5 + 5, 2 / 3])
    assert 1e3 * sum(shares(intervals)) == pytest.approx(15)


def test_a_trace_without_its_window_or_without_work_is_refused():
    with pytest.raises(ValueError, match=r"got 0 annotations named litespark\.profile, expected one"):
        busy_intervals(GPU[2:], "cuda")
    with pytest.raises(ValueError, match="got no work of the cuda within the steps"):
        busy_intervals([WINDOW_EVENT, op("aten::mm", 1, 2)], "cuda")
