"""`litespark bench ops`: what is measured, what is refused a figure, and how a record is continued."""

import json
import sys
import types

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from litespark.benchmarks.ops import measure as ops
from litespark.benchmarks.ops import rivals
from litespark.benchmarks.ops import session as ops_session
from litespark.benchmarks.ops.measure import matmuls
from litespark.benchmarks.ops.rivals import difference_from_reference, liger
from litespark.cli import main
from litespark.metrics.records.ops import OpsRecord
from litespark.ops.attention.documents import Documents, document_index
from litespark.ops.backend import BACKENDS, REFERENCE, Backend, load
from litespark.ops.cases import cases
from litespark.ops.rms_norm.reference import rms_norm
from litespark.ops.rope.reference import rope
from litespark.ops.shapes import Place, StepShapes
from litespark.ops.tolerance import outputs_and_gradients
from litespark.planning.op_costs import op_cost, pairs_within_documents, pairs_within_sequences
from litespark.run import new_run as provenance_module
from tests.cli.tiny_run import tiny

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPES = StepShapes(2, 13, 32, 4, 2, 16, 48, 97)
PLACE = Place(CPU, torch.float32, SHAPES)
TWO_OPS = ("--op", "rms_norm", "--op", "rope")


@pytest.fixture(autouse=True)
def one_state_of_the_code(monkeypatch):
    """Whatever else happens to the working tree while tests run."""
    monkeypatch.setattr(provenance_module, "source_hash", lambda *folders: "0123456789abcdef")
    monkeypatch.setattr(provenance_module, "git_state", lambda folder: ("c0ffee", False))


def bench(tmp_path, *more: str) -> int:
    return main(["bench", "ops", *tiny(tmp_path), *more, "--seconds", "0.001", "--output", str(tmp_path / "results")])


def records(tmp_path) -> list[OpsRecord]:
    return [OpsRecord.read(path) for path in sorted((tmp_path / "results").glob("*/*.json"))]


def test_every_op_is_in_the_record_with_times_or_a_reason(tmp_path, capsys):
    assert bench(tmp_path) == 0
    (record,) = records(tmp_path)
    (path,) = (tmp_path / "results").glob("*/*_bench-ops_tiny_fp32.json")
    assert json.loads(path.read_text())["schema"] == "litespark.bench.ops/5"
    assert record.complete
    assert record.ops == [*BACKENDS, "optimizer"]
    assert record.copy_bytes_per_second > 0
    # of fp8 in a file of its own
    by_name = {case.case: case for case in record.cases if case.op != "fp8"}
    assert len(by_name) < len(record.cases)
    assert list(by_name) == [
        *("rms_norm", "add_rms_norm", "rope", "swiglu", "swiglu_linear"),
        *("attention", "attention within documents", "sum of losses"),
    ]
    for case in by_name.values():
        assert [variant.name for variant in case.variants] == [*BACKENDS[case.op], "torch.compile", "liger"]
        for variant in case.variants:
            assert variant.peak_memory_mib is None
            if variant.forward is None:
                assert variant.reason
            else:
                assert 0 < variant.forward.p10_ms <= variant.forward.median_ms <= variant.forward.p90_ms
                assert variant.forward_backward.repeats >= 5
        assert REFERENCE in {variant.name for variant in case.variants if variant.forward_backward}
    assert [each.name for each in by_name["sum of losses"].yardsticks] == ["three matrix products"]
    assert [each.name for each in by_name["attention within documents"].yardsticks] == ["sdpa over whole sequences"]
    sdpa = next(each for each in by_name["attention"].variants if each.name == "sdpa")
    assert sdpa.verified
    assert sdpa.kernel in ("flash", "math")
    assert {each.name for each in record.optimizer} == {"PyTorch's fused kernel", "foreach"}
    said = capsys.readouterr().out
    for shown in ("attention within documents", "why absent", "bytes a parameter", str(path)):
        assert shown in said


def test_a_second_start_continues_with_what_is_missing_over_a_bandwidth_of_its_own(tmp_path, monkeypatch, capsys):
    bandwidths = iter((1e9, 2e9, 3e9))
    monkeypatch.setattr(ops_session, "copy_bandwidth", lambda device, seconds: next(bandwidths))
    with monkeypatch.context() as patch:
        measured = {"rms_norm": ops_session.measure_op}
        patch.setattr(ops_session, "measure_op", lambda op, place, **options: measured[op](op, place, **options))
        assert bench(tmp_path, *TWO_OPS) == 1
    (before,) = records(tmp_path)
    assert [case.op for case in before.cases] == ["rms_norm"]
    assert [(failure.op, failure.error) for failure in before.failures] == [("rope", "KeyError: 'rope'")]
    assert "rope FAILED: KeyError: 'rope'" in capsys.readouterr().out
    assert not before.complete
    assert bench(tmp_path, *TWO_OPS) == 0
    (after,) = records(tmp_path)
    assert after.cases[0] == before.cases[0]
    assert [(case.op, case.copy_bytes_per_second) for case in after.cases] == [("rms_norm", 1e9), ("rope", 2e9)]
    assert after.complete
    assert not after.failures
    assert "continued, 1 of 2 ops" in capsys.readouterr().err
    # what is complete is measured anew, beside it
    assert bench(tmp_path, *TWO_OPS) == 0
    assert len(records(tmp_path)) == 2


def broken_rms_norm(x, weight, eps):
    return rms_norm(x, weight, eps) * 1.001


def narrow_rms_norm(x, weight, eps):
    if x.shape[1] > 30 and not torch.are_deterministic_algorithms_enabled():
        raise RuntimeError("this sequence is too long")
    return rms_norm(x, weight, eps)


def test_a_backend_that_is_wrong_or_raises_gets_no_figure_and_the_others_do(tmp_path, monkeypatch, capsys):
    for name in ("broken", "narrow"):
        monkeypatch.setitem(BACKENDS["rms_norm"], name, Backend(f"{__name__}:{name}_rms_norm"))
    assert bench(tmp_path, "--op", "rms_norm") == 1
    (record,) = records(tmp_path)
    variants = {each.name: each for each in record.cases[0].variants}
    broken, narrow = variants["broken"], variants["narrow"]
    assert (broken.verified, narrow.verified) == (False, True)
    assert broken.forward is broken.forward_backward is narrow.forward is None
    assert "FAILED" in broken.reason
    assert narrow.reason == "at these sizes it raised RuntimeError: this sequence is too long"
    assert record.red == [broken]
    assert "broken" in capsys.readouterr().out
    assert variants[REFERENCE].forward_backward is not None


def test_bad_arguments_are_refused_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ops_session, "copy_bandwidth", lambda *arguments: pytest.fail("it was measured"))
    assert bench(tmp_path, "--op", "softmax") == 1
    assert "--op: got softmax, expected one of rms_norm" in capsys.readouterr().err
    (tmp_path / "results").write_text("")
    assert bench(tmp_path, "--op", "rms_norm") == 1
    assert "results" in capsys.readouterr().err


def test_a_kernel_of_pytorch_that_is_not_the_expected_one_is_said(monkeypatch):
    monkeypatch.setattr(ops, "expected_kernel", lambda device, dtype, width: "cudnn")
    whole, within = ops.measure_op("attention", PLACE, seconds=0.001, bandwidth=1e9)
    said = [next(each.reason for each in case.variants if each.name == "sdpa") for case in (whole, within)]
    assert "where cudnn is expected" in said[0]
    assert said[1] is None


# ---------------------------------------------------------------- what times are held against


@pytest.mark.parametrize("op", ["swiglu_linear", "linear_cross_entropy"])
def test_operations_are_those_that_pytorch_counts_and_the_yardstick_has_as_many(op):
    case, cost = cases(op, SHAPES, CPU)[0], op_cost(op, PLACE)
    for call in (
        lambda: outputs_and_gradients(lambda *inputs: case.call(load(op, REFERENCE), *inputs), case.inputs),
        matmuls(op, PLACE)["three matrix products"],
    ):
        with FlopCounterMode(display=False) as counted:
            call()
        assert counted.get_total_flops() == cost.forward_flops + cost.backward_flops


def test_pairs_are_those_that_a_mask_shows():
    index = document_index(3, 40, CPU)
    assert pairs_within_documents(index) == int(Documents(index).visible().sum())
    whole = Documents(torch.zeros(SHAPES.sequences, SHAPES.length, dtype=torch.int32))
    assert pairs_within_sequences(SHAPES) == int(whole.visible().sum())


# ---------------------------------------------------------------- rivals


def _rope(q, k, cos, sin, position_ids=None, unsqueeze_dim=1, rotary_dim=None):
    half = cos.shape[-1] // 2
    rotated = rope(q.transpose(1, 2), k.transpose(1, 2), cos[..., :half], sin[..., :half])
    return tuple(x.transpose(1, 2) for x in rotated)


@pytest.fixture
def installed_liger(monkeypatch):
    """Functions of Liger with their signatures, in plain PyTorch."""

    def liger_rms_norm(X, W, eps, offset=0.0, casting_mode="llama", in_place=True):
        assert not in_place
        return rms_norm(X, W, eps)

    functional = types.SimpleNamespace(liger_rms_norm=liger_rms_norm, liger_rope=_rope)
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", functional)
    return functional


@pytest.mark.parametrize("op", ["rms_norm", "rope"])
def test_liger_is_called_as_the_op_is(installed_liger, op):
    assert difference_from_reference(liger(op, CUDA), cases(op, SHAPES, CPU)[0], PLACE) is None


def test_a_wrong_rival_is_seen(installed_liger):
    honest = installed_liger.liger_rms_norm
    installed_liger.liger_rms_norm = lambda *inputs, **options: honest(*inputs, **options) * 1.01
    found = difference_from_reference(liger("rms_norm", CUDA), cases("rms_norm", SHAPES, CPU)[0], PLACE)
    assert "output 0 is 1.0e-02 away" in found


def test_absent_rivals_are_named_with_the_reason(monkeypatch, installed_liger):
    assert liger("attention", CPU) == "Liger has no kernel for it"
    assert liger("rope", CPU) == "Liger's kernels need a GPU"
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", None)
    assert "pip install liger-kernel" in liger("rope", CUDA)
    assert "compiling for a CPU" in rivals.compiled_reference("rope", CPU)
    assert callable(rivals.compiled_reference("rope", CUDA))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_fast_backends_and_memory_are_there(tmp_path, capsys):
    more = ("trainer.accelerator=gpu", "precision=bf16", "data.seq_len=256", "model.hidden_size=256",
            "model.num_heads=4", "model.num_kv_heads=2", "model.intermediate_size=512")  # fmt: skip
    assert bench(tmp_path, *more, *(word for op in ("rms_norm", "attention") for word in ("--op", op))) == 0
    (record,) = records(tmp_path)
    for case in record.cases:
        timed = {variant.name for variant in case.variants if variant.forward is not None}
        assert {"triton", REFERENCE, "torch.compile"} <= timed, capsys.readouterr().out
        assert all(variant.peak_memory_mib > 0 for variant in case.variants if variant.name in timed)
