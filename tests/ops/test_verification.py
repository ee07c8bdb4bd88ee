"""Verifications: right backends pass at a run's sizes, and each planted fault is caught and said."""

from dataclasses import replace

import pytest
import torch

from litespark.ops.backend import BACKENDS, REFERENCE, Backend, why_not
from litespark.ops.cases import cut, small
from litespark.ops.shapes import Place, StepShapes
from litespark.ops.tolerance import Difference
from litespark.ops.verification import Verification, failures, verify
from tests.ops import planted as planted_ops

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = StepShapes(sequences=2, length=40, hidden_size=64, num_heads=4, num_kv_heads=2, head_dim=16,
                    intermediate_size=80, vocab_size=101, documents=True)  # fmt: skip
PLACE = Place(DEVICE, torch.float32, SHAPES)
R3 = StepShapes(sequences=4, length=4096, hidden_size=3072, num_heads=24, num_kv_heads=8, head_dim=128,
                intermediate_size=8192, vocab_size=32000, documents=True)  # fmt: skip
FAST = [
    (op, name)
    for op, known in BACKENDS.items()
    for name in known
    # the last: the kernels of `triton`, put together in another way
    if name not in (REFERENCE, "triton_apart") and why_not(op, name, DEVICE, torch.float32) is None
]
APART = pytest.param("fp8", "triton_apart", torch.bfloat16, True, None, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("op", "name", "dtype", "autocast", "residual"),
    [(*each, torch.bfloat16, True, None) for each in FAST]
    + [(*each, torch.bfloat16, True, torch.bfloat16) for each in FAST if each[0] == "add_rms_norm"]
    + [(*each, torch.float32, False, None) for each in FAST if each[0] in ("add_rms_norm", "swiglu_linear")]
    + [APART] * (("fp8", "triton") in FAST),
)
def test_every_backend_is_verified_as_a_run_calls_it(op, name, dtype, autocast, residual):
    if (reason := why_not(op, name, DEVICE, dtype)) is not None:
        pytest.skip(reason)
    # fp8 has some fifty ways, each interpreted; tests of its own have several tiles
    shapes = replace(SHAPES, sequences=1, intermediate_size=64) if op == "fp8" else SHAPES
    verifications = verify(op, name, Place(DEVICE, dtype, shapes, autocast, residual=residual))
    assert verifications
    for verification in verifications:
        assert verification.passed, str(verification)
        assert verification.interpreted is (DEVICE.type == "cpu" and name.startswith("triton"))
        assert op == "fp8" or any(each.tensor.startswith("gradient") for each in verification.differences)


def test_sequences_of_one_token_are_no_failure():
    verifications = verify("attention", "sdpa", replace(PLACE, shapes=replace(SHAPES, length=1)))
    assert [verification.case for verification in verifications] == ["attention", "attention within documents"]
    assert not failures(verifications), list(map(str, verifications))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("wrong_gradient", "gradient of gate_up"),
        ("hole", "output 0 is inf"),
        ("raising", "RuntimeError: no kernel"),
    ],
)
def test_a_planted_fault_is_caught_and_named(monkeypatch, fault, said):
    monkeypatch.setitem(BACKENDS["swiglu"], "planted", Backend(f"tests.ops.planted:{fault}"))
    (verification,) = failures(verify("swiglu", "planted", PLACE))
    assert "swiglu=planted (swiglu, fp32, 74 tokens x 80): FAILED" in str(verification)
    assert said in str(verification)


def test_products_are_exact_within_a_verification_and_as_the_run_wants_them_after_it(monkeypatch):
    seen = []

    def looking(gate_up):
        seen.append(torch.get_float32_matmul_precision())
        raise RuntimeError("no kernel")

    monkeypatch.setattr(planted_ops, "looking", looking, raising=False)
    monkeypatch.setitem(BACKENDS["swiglu"], "planted", Backend("tests.ops.planted:looking"))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert failures(verify("swiglu", "planted", PLACE))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(seen) == {"highest"}


def test_inputs_that_do_not_fit_the_device_are_a_failed_verification(monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate much")

    monkeypatch.setattr("litespark.ops.verification.cases", full)
    (verification,) = failures(verify("swiglu", "triton", PLACE))
    assert str(verification).endswith("FAILED, it raised OutOfMemoryError: CUDA out of memory.")


def test_a_failure_is_said_before_what_is_exact():
    found = (Difference("exact", 0.0, 0.0), Difference("near", 0.1, 0.2), Difference("far", 0.3, 0.2))
    verification = Verification("fp8", "triton", "cast", "2 x 2", "bf16", False, 0.1, found)
    assert str(verification).endswith("FAILED, far is 3.0e-01 away, at most 2.0e-01 is allowed")
    right = replace(verification, differences=found[:2])
    assert str(right).endswith("verified, near is 1.0e-01 away, at most 2.0e-01 is allowed")


@pytest.mark.parametrize("op", BACKENDS)
def test_sizes_are_cut_to_memory_with_the_widths_of_the_run(op):
    found = cut(op, R3, 2**30)
    assert (found.hidden_size, found.head_dim, found.intermediate_size, found.vocab_size) == (3072, 128, 8192, 32000)
    tiny = small(op, R3)
    assert tiny.tokens <= 2 * 112
    assert found.num_heads // found.num_kv_heads == tiny.num_heads // tiny.num_kv_heads == 3
    more = cut(op, R3, 2**40)
    assert (more.sequences, more.length, more.num_heads) == (4, 4096, 24)


def test_attention_gives_up_length_before_a_second_sequence_and_a_second_key_value_head():
    found = cut("attention", R3, 2**30)
    assert (found.sequences, found.num_kv_heads, found.num_heads) == (2, 2, 6)
    assert 5 * 4 * found.sequences * found.num_heads * found.length**2 <= 2**30
    assert (R3.length - found.length) % 128 == 0, "blocks at the end are as in the run"
    assert cut("attention", replace(R3, length=4095), 2**30).length % 128 == 4095 % 128
    short = cut("attention", replace(R3, length=512), 2**30)
    assert (short.sequences, short.length, short.num_kv_heads) == (4, 512, 8)
    assert cut("attention", StepShapes(1, 2**20, 64, 8, 1, 64, 64, 128), 2**30).length < 2**20


@pytest.mark.parametrize("op", ["rope", "linear_cross_entropy", "fp8", "swiglu"])
def test_an_op_keeps_two_sequences_and_gives_up_whole_tiles(op):
    found = cut(op, R3, 2**30)
    assert found.sequences >= 2
    assert (R3.length - found.length) % 64 == 0
    assert cut(op, R3, 1).tokens == 1
