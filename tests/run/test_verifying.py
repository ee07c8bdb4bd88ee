"""Ops in a run: verified before the model is built, recorded, and a wrong one stops the run or is replaced."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from litespark.ops.backend import BACKENDS, REFERENCE, Backend
from litespark.ops.choice import FailedVerificationError
from litespark.ops.precision import dtype_name
from litespark.ops.tolerance import Difference
from litespark.ops.verification import Verification
from litespark.reports import tables
from litespark.run import choose_optimizer, verify
from litespark.run import train as run
from litespark.run.config import ConfigError
from litespark.run.record import RunRecord
from tests.checkpoints import state_in
from tests.ops import planted_pieces
from tests.run.composed import SMALL, config

WRONG = Backend("tests.ops.planted:wrong_gradient")
RIGHT = Backend("tests.ops.planted:right")
ELSEWHERE = Backend("tests.ops.planted:right", "tests.ops.planted:why_not_here")
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="it is about machines without a GPU")


def _train(folder: Path, *overrides: str) -> RunRecord:
    run.train(config(*SMALL, f"paths.logs={folder}", *overrides))
    return RunRecord.read(folder / "runs" / "small" / "run.json")


def test_a_run_records_the_errors_of_its_fast_ops(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    record = _train(tmp_path, "ops=litespark", "callbacks.verify=always")
    ops = {op.op: op for op in record.ops}
    assert ops.keys() == BACKENDS.keys() - {"swiglu_linear", "fp8"}
    assert (ops["attention"].asked, ops["attention"].used) == ("auto", "sdpa")
    assert "CUDA" in ops["attention"].reason
    cases = [verification.case for verification in ops["attention"].verifications]
    assert cases == ["attention", "attention within documents"]
    verifications = [verification for op in record.ops for verification in op.verifications]
    assert all(verification.passed for verification in verifications)
    assert all(each.distance <= each.bound for verification in verifications for each in verification.differences)
    (line,) = [line.message for line in caplog.records if line.message.startswith("ops: ")]
    assert "sdpa attention" in line
    assert ops["attention"].detail in ("math kernel", "flash kernel")  # which of them is PyTorch's to choose
    assert f"| attention | sdpa ({ops['attention'].detail}) | auto | " in tables.ops(record).markdown()


def test_a_run_with_verifications_has_the_same_bits_as_one_without(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKENDS["swiglu"], "drawing", Backend("tests.ops.planted:drawing"))
    states = []
    for verifying in ("always", "never"):
        _train(tmp_path / verifying, "ops=litespark", "ops.swiglu=drawing", f"callbacks.verify={verifying}")
        state = state_in(tmp_path / verifying / "runs" / "small")
        states.append([state["state_dict"], [each["torch"] for each in state["litespark"]["random"]]])
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_a_failing_op_stops_the_run_before_its_first_step(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKENDS["swiglu"], "wrong", WRONG)
    with pytest.raises(FailedVerificationError, match=r"(?s)ops.swiglu: got wrong, .*gradient of gate_up"):
        _train(tmp_path, "ops.swiglu=wrong", "callbacks.verify=always")
    record = json.loads((tmp_path / "runs" / "small" / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["throughput"]["steps"] == 0


def test_failing_pieces_of_fp8_stop_a_run_that_computes_with_them(tmp_path, monkeypatch):
    monkeypatch.setattr(planted_pieces, "PLANTED", planted_pieces.Cast(planted_pieces.not_noted), raising=False)
    monkeypatch.setitem(BACKENDS["fp8"], "wrong", Backend("tests.ops.planted_pieces:PLANTED"))
    wrong = "ops.fp8=wrong", "callbacks.verify=always"
    with pytest.raises(FailedVerificationError, match=r"(?s)ops.fp8: got wrong, .*cast of weights, delayed.*amax"):
        _train(tmp_path, *wrong, "precision=fp8", "precision.fp8.simulate=true")
    assert _train(tmp_path / "other", *wrong).status == "finished"


def test_a_failing_op_is_replaced_where_that_is_asked_for(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(BACKENDS["swiglu"], "wrong", WRONG)
    record = _train(tmp_path, "ops.swiglu=wrong", "callbacks.verify=always", "ops.on_failed_verification=fallback")
    (op,) = [op for op in record.ops if op.op == "swiglu"]
    assert (op.asked, op.used, op.reason) == ("wrong", REFERENCE, "not wrong for swiglu: its verification failed")
    assert [verification.passed for verification in op.verifications] == [False]
    assert sum("VERIFICATION FAILED" in line.message for line in caplog.records) == 1
    assert "wrong failed (swiglu)" in tables.ops(record).markdown()
    assert record.status == "finished"


def test_a_resume_computes_with_the_backends_of_its_run(tmp_path, monkeypatch):
    """Whatever `auto` would take by now."""
    used = _train(tmp_path, "ops=litespark", "ops.linear_cross_entropy=reference")
    assert {op.op: op.used for op in used.ops}["attention"] == "sdpa"
    monkeypatch.setitem(BACKENDS, "attention", dict(reversed(BACKENDS["attention"].items())))
    again = _train(
        tmp_path,
        "ops=litespark",
        "ops.linear_cross_entropy=reference",
        "budget.steps=4",
        f"resume={tmp_path}/runs/small",
    )
    assert [(op.op, op.used) for op in again.ops] == [(op.op, op.used) for op in used.ops]
    fresh = _train(tmp_path / "fresh", "ops=litespark")
    assert {op.op: op.used for op in fresh.ops}["attention"] == REFERENCE


def test_an_op_that_the_run_does_not_use_cannot_stop_it(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKENDS["swiglu_linear"], "wrong", Backend("tests.ops.planted:raising"))
    record = _train(tmp_path, "ops.swiglu_linear=wrong", "callbacks.verify=always")
    assert "swiglu_linear" not in {op.op for op in record.ops}
    with pytest.raises(FailedVerificationError, match=r"ops.swiglu_linear: got wrong"):
        _train(tmp_path, "ops.swiglu_linear=wrong", "callbacks.verify=always", "recompute=swiglu", "name=other")


def _verified(*overrides: str) -> tuple[bool, list[str]]:
    lines: list[str] = []
    return verify.verify_all(config(*SMALL, *overrides), lines.append), lines


_FP8 = "ops=reference", "ops.fp8=triton", "precision=fp8", "precision.fp8.recipe=tensorwise"


def _verified_in(dtype: str, *, autocast: bool):
    """Stands in for the verifications of all pieces, which tests/ops runs; of the dtypes that it insists on."""

    def verifying(op, backend, place):
        assert (dtype_name(place.dtype), place.autocast, place.fp8.recipe) == (dtype, autocast, "tensorwise")
        return [Verification(op, backend, "everything", "few", dtype, True, 0.1, (Difference("codes", 0.0, 1e-3),))]

    return verifying


def test_verify_runs_every_fast_backend_that_can_run_here():
    right, lines = _verified("ops=litespark")
    assert right, "\n".join(lines)
    used = BACKENDS.keys() - {"fp8"}
    assert lines[-1] == f"{len(used) + 1} of {len(used) + 1} ops verified"
    assert sum(line.startswith("adamw=triton (gradients in ") for line in lines) == 2
    assert not any(line.startswith("fp8") for line in lines)
    if not torch.cuda.is_available():
        assert "interpreter" in lines[0]
        for op in used:
            assert any(line.startswith(f"{op}=triton (") for line in lines), op


@needs_no_gpu
@pytest.mark.parametrize("simulate", [False, True])
def test_verify_verifies_the_pieces_of_fp8_where_there_are_no_units_and_the_products(simulate, monkeypatch):
    monkeypatch.setattr(verify, "verify", _verified_in("bf16", autocast=True))
    right, lines = _verified(*_FP8, f"precision.fp8.simulate={simulate}")
    assert right, "\n".join(lines)
    verified = "fp8=triton (everything, bf16, few): verified, codes is 0.0e+00 away, at most 1.0e-03 is allowed"
    assert (lines[1], lines[-1]) == (verified, "2 of 2 ops verified")
    wrong = Verification("fp8", "units", "products", "few", "bf16", False, 0.1, (Difference("output", 0.5, 0.02),))
    monkeypatch.setattr(verify, "verify_products", lambda *arguments: [wrong])
    right, lines = _verified(*_FP8, f"precision.fp8.simulate={simulate}")
    assert (right, lines[-1]) == (False, "FAILED: 1 of 2 ops")
    assert "fp8=units (products, bf16, few): FAILED, output is 5.0e-01 away, at most 2.0e-02 is allowed" in lines


def test_verify_refuses_to_verify_fp8_for_a_run_without_it():
    with pytest.raises(ConfigError, match=r"got the reference for every op that .* or precision=fp8"):
        _verified("ops=reference", "ops.fp8=triton", "precision=bf16")


def test_verify_fails_where_an_op_resolved_to_its_reference(monkeypatch):
    monkeypatch.setitem(BACKENDS, "swiglu", {"far": ELSEWHERE, REFERENCE: BACKENDS["swiglu"][REFERENCE]})
    right, lines = _verified("ops.swiglu=auto")
    assert not right
    assert "swiglu=far: cannot run here: it needs a device of another world" in lines
    assert any("ops.swiglu=auto resolves to its reference here" in line for line in lines)


def test_verify_shows_every_failure_and_fails(monkeypatch):
    monkeypatch.setitem(BACKENDS["swiglu"], "wrong", WRONG)
    monkeypatch.setitem(BACKENDS["rope"], "wrong", Backend("tests.ops.planted:raising"))
    right, lines = _verified("ops=reference", "ops.swiglu=wrong", "ops.rope=wrong")
    assert not right
    assert sum("FAILED" in line for line in lines[:-1]) == 2
    assert lines[-1] == "FAILED: 2 of 3 ops"


@needs_no_gpu
def test_adamw_in_triton_is_verified_before_a_run_and_replaced_where_it_is_wrong(tmp_path, monkeypatch):
    def adamw(folder, *overrides):
        record = _train(folder, "optim.adamw_kernel=triton", "callbacks.verify=always", *overrides)
        return next(op for op in record.ops if op.op == "adamw")

    right = adamw(tmp_path / "right")
    assert (right.asked, right.used, [each.passed for each in right.verifications]) == ("triton", "triton", [True] * 2)
    wrong = Verification("adamw", "triton", "gradients", "few", "fp32", True, 0.1, (Difference("weight", 0.5, 1e-6),))
    monkeypatch.setattr(choose_optimizer, "verify_adamw", lambda device: [wrong])
    with pytest.raises(FailedVerificationError, match=r"optim.adamw_kernel: got triton, .* Set optim.adamw_kernel=tor"):
        adamw(tmp_path / "wrong")
    other = adamw(tmp_path / "replaced", "ops.on_failed_verification=fallback")
    assert (other.used, [each.passed for each in other.verifications]) == ("torch", [False])
