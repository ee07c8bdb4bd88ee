"""Events as a profiler gives them, times in microseconds: what was busy, what launched it, and what is left as idle."""

from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from litespark.benchmarks.profile.classes import CLASSES, scope
from litespark.benchmarks.profile.process import by_class
from litespark.benchmarks.profile.trace import work_of

MAIN, ENGINE = 7, 8


def event(name, start, length, parent=None, kernels=(), thread=MAIN, **more):
    return SimpleNamespace(
        name=name, time_range=SimpleNamespace(start=start, end=start + length), cpu_parent=parent, thread=thread,
        kernels=[SimpleNamespace(name=kernel, duration=duration) for kernel, duration in kernels],
        **{"device_type": DeviceType.CPU, "is_async": False, "is_user_annotation": False, "sequence_nr": -1,
           "fwd_thread": 0} | more,
    )  # fmt: skip


def on_gpu():
    """Forward: a norm of a plain kernel and a product; backward on another thread; an optimizer nobody annotated."""
    norm = event(scope("norm"), 1, 8, is_user_annotation=True)
    outer = event("aten::multiply", 2, 7, norm, sequence_nr=3)
    mul = event("aten::mul", 3, 5, outer, [("elementwise", 10)], sequence_nr=3)
    product = event("aten::mm", 10, 5, None, [("nvjet_tst_128x256", 30)], sequence_nr=4)
    backward = {"thread": ENGINE, "sequence_nr": 3, "fwd_thread": MAIN}
    engine = event("autograd::engine::evaluate_function: MulBackward0", 16, 8, None, **backward)
    node = event("MulBackward0", 17, 5, engine, **backward)
    gradient = event("aten::mul", 18, 3, node, [("elementwise", 5)], thread=ENGINE)
    added = event("aten::add_", 22.5, 1, engine, [("elementwise", 5)], thread=ENGINE)
    update = event("aten::_foreach", 30, 2, None, [("multi_tensor_apply_kernel<FusedAdam>", 10)])
    host = [norm, outer, mul, product, engine, node, gradient, added, update]
    device = [
        event(kernel.name, 100 + at, kernel.duration, device_type=DeviceType.CUDA)
        for at, kernel in enumerate(kernel for op in host for kernel in op.kernels)
    ]
    # one whose launch was not seen, and the shadow of an annotation
    lost = event("elementwise", 200, 2, device_type=DeviceType.CUDA)
    shadow = event(scope("norm"), 100, 50, device_type=DeviceType.CUDA, is_user_annotation=True)
    return [*host, *device, lost, shadow]


def test_kernels_are_found_with_what_launched_them():
    forward, product, gradient, added, _, lost = work_of(on_gpu(), "cuda")
    assert forward.launched_by == ("aten::mul", "aten::multiply", scope("norm"))
    assert product.launched_by == ("aten::mm",)
    assert gradient.launched_by[:2] == ("aten::mul", "MulBackward0")
    assert gradient.forward == ("aten::mul", "aten::multiply", scope("norm"))
    # a sum of gradients beside the node is tied to its forward op too
    assert added.launched_by == ("aten::add_", "autograd::engine::evaluate_function: MulBackward0")
    assert added.forward == gradient.forward
    assert (lost.name, lost.milliseconds, lost.launched_by) == ("elementwise", 0.002, ())


def test_classes_and_idle_are_the_wall_time():
    classes = {each.kernel_class: each for each in by_class(0.1, work_of(on_gpu(), "cuda"), steps=2)}
    microseconds = {name: 2e3 * each.milliseconds for name, each in classes.items()}  # of both steps
    # norm: 10 forward, 5 backward and the 5 of its gradient's sum
    expected = {"norm": 20, "gemm": 30, "optimizer": 10, "other": 2, "idle": 100 - 62}
    assert microseconds == pytest.approx(dict.fromkeys(CLASSES, 0) | expected)
    assert list(classes) == [*CLASSES, "idle"]
    (kernel, *_) = classes["norm"].kernels
    assert (kernel.name, kernel.launched_by, kernel.calls) == ("elementwise", "aten::mul", 1)


def test_on_a_cpu_an_op_has_the_time_that_its_children_leave_and_its_forward_op():
    weight = torch.randn(64, 64, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU]) as profiler, record_function(scope("norm")):
        torch.nn.functional.linear(torch.randn(8, 64), weight).relu().sum().backward()
    events = profiler.events()
    work = work_of(events, "cpu")
    assert scope("norm") not in {done.name for done in work}
    whole = sum(op.cpu_time_total for op in events if op.cpu_parent is None or op.cpu_parent.is_user_annotation)
    whole -= sum(op.cpu_time_total for op in events if op.is_user_annotation)
    assert 1e3 * sum(done.milliseconds for done in work) == pytest.approx(whole)
    (node,) = [done for done in work if done.name == "ReluBackward0"]
    assert node.forward == ("aten::relu", scope("norm"))
    assert next(done.launched_by for done in work if done.name == "aten::mm")[-1] == scope("norm")


def test_a_trace_without_work_is_refused():
    with pytest.raises(ValueError, match="got no work of the cuda within the steps"):
        work_of([event("aten::mm", 1, 2)], "cuda")
