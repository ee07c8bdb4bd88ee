"""Every configuration of our attention is a backend: timed, verified, remembered and launched like any other."""

import itertools

import pytest
import torch

from litespark.mesh import Mesh
from litespark.ops import choice, measuring, triton_support
from litespark.ops.attention.configurations import candidates, configuration_for, why_not
from litespark.ops.backend import AUTO, BACKENDS, OpsConfig
from litespark.ops.cases import cases
from litespark.ops.shapes import Place, StepShapes
from litespark.ops.tolerance import outputs_and_gradients
from litespark.ops.triton_support import TARGETS
from litespark.run.choose_ops import op_record
from tests.stand_in_device import stand_in

pytest.importorskip("triton")

from litespark.ops.attention import launchers

SHAPES = StepShapes(sequences=1, length=36, hidden_size=32, num_heads=2, num_kv_heads=1, head_dim=16,
                    intermediate_size=24, vocab_size=31, documents=True)  # fmt: skip
PLACE = Place(torch.device("cpu"), torch.bfloat16, SHAPES)
OURS = "triton", "triton_2"
CONFIGURATIONS = candidates(TARGETS["sm_90"], SHAPES.head_dim, torch.bfloat16)
MILLISECONDS = {"triton": 2.0, "triton_2": 1.0, "reference": 3.0}


@pytest.fixture
def launched(monkeypatch):
    """A device with the configurations of a GPU, whose kernels the interpreter runs: queries and keys of each launch.

    Times are planted: the second configuration is the fastest.
    """
    monkeypatch.setattr(triton_support, "_recording", TARGETS["sm_90"])
    stand_in(monkeypatch, is_nvidia_or_amd=True, capability=(9, 0))
    known = BACKENDS["attention"]
    monkeypatch.setitem(BACKENDS, "attention", {name: known[name] for name in (*OURS, "reference")})
    calls, constants = [], launchers.kernel_constants

    def seen(launch, *rest):
        calls.append((launch.queries, launch.keys))
        return constants(launch, *rest)

    monkeypatch.setattr(launchers, "kernel_constants", seen)
    times = {name: [milliseconds] for name, milliseconds in MILLISECONDS.items()}
    monkeypatch.setattr(
        measuring, "interleaved_milliseconds", lambda runs, *_, **__: {name: times[name] for name in runs}
    )
    return calls


def decided(**options):
    ops, choices = choice.decide(OpsConfig(attention=AUTO), PLACE, Mesh(), **{"verifying": True, **options})
    return ops, next(found for found in choices if found.op == "attention")


def blocks_of(configuration):
    launches = configuration.forward, configuration.query_gradient, configuration.key_value_gradient
    return [(launch.queries, launch.keys) for launch in launches]


def test_a_faster_second_configuration_is_chosen_recorded_verified_remembered_and_launched(
    launched, monkeypatch, tmp_path
):
    assert blocks_of(CONFIGURATIONS[0]) != blocks_of(CONFIGURATIONS[1])
    ops, found = decided(cache=tmp_path / "ops.json")
    record = op_record(found)
    assert (record.used, {time.backend: time.milliseconds for time in record.times}) == ("triton_2", MILLISECONDS)
    assert record.detail == "blocks of 128 x 64, 128 x 128, 64 x 64"
    assert {(check.backend, check.passed) for check in record.verifications} == {("triton_2", True)}
    case = cases("attention", SHAPES, PLACE.device)[-1]
    inputs = {name: x.to(PLACE.dtype) for name, x in case.inputs.items()}
    launched.clear()
    outputs_and_gradients(lambda *tensors: case.call(ops.attention, *tensors), inputs)
    assert launched == blocks_of(CONFIGURATIONS[1])
    # from memory: nothing is timed, and what the run takes is verified
    monkeypatch.setattr(choice, "measure", lambda *_: pytest.fail("timed again"))
    launched.clear()
    assert decided(cache=tmp_path / "ops.json")[1].used == "triton_2"
    assert set(launched) == set(blocks_of(CONFIGURATIONS[1]))
    assert decided(verifying=False, before={"attention": "triton_2"})[1].reasons == ("as before the resume",)


def test_a_fault_of_the_second_configuration_alone_keeps_the_first(launched, monkeypatch):
    constants = launchers.kernel_constants

    def without_documents(launch, *rest):
        wrong = {"DOCUMENTS": False} if launch == CONFIGURATIONS[1].key_value_gradient else {}
        return {**constants(launch, *rest), **wrong}

    monkeypatch.setattr(launchers, "kernel_constants", without_documents)
    _, found = decided()
    assert (found.used, found.milliseconds.keys()) == ("triton", {"triton", "reference"})
    assert "not triton_2 for attention: its verification failed" in found.reasons


def test_each_configuration_of_each_target_is_a_backend():
    of_dtypes = itertools.product(TARGETS.values(), (16, 64, 128, 256), (torch.bfloat16, torch.float32))
    most = max(len(candidates(target, head_dim, dtype)) for target, head_dim, dtype in of_dtypes)
    assert [name for name in BACKENDS["attention"] if name.startswith("triton")] == [*OURS][:most]


def test_a_configuration_that_a_device_does_not_have_is_refused(launched):
    assert why_not(PLACE.device, torch.bfloat16, SHAPES, 1) is None
    reason = "the kernels have no configuration 2 for this device, dtype and head_dim"
    assert why_not(PLACE.device, torch.float32, SHAPES, 1) == reason
    with pytest.raises(ValueError, match=rf"ops.attention: got triton_2, which cannot run here: {reason}"):
        choice.decide(
            OpsConfig(attention="triton_2"), Place(PLACE.device, torch.float32, SHAPES), Mesh(), verifying=False
        )
    assert configuration_for(PLACE.device, 16, torch.bfloat16, 1) == CONFIGURATIONS[1]
