"""Verifications come to every structural case of a run, and a fault in one of them only is caught."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from litespark.ops import triton_support, verification
from litespark.ops.attention.configurations import candidates
from litespark.ops.attention.structure import of_documents
from litespark.ops.backend import BACKENDS, REFERENCE, Backend, structure
from litespark.ops.cases import cases
from litespark.ops.choice import Choice
from litespark.ops.fp8.settings import Fp8Config
from litespark.ops.linear_cross_entropy import chunks
from litespark.ops.rms_norm import kernels as rms_norm
from litespark.ops.shapes import Place, StepShapes
from litespark.ops.structure import far, in_parts, rows_at_once
from litespark.ops.triton_support import TARGETS
from litespark.ops.verification import failures, sizes_for, verify
from litespark.run.choose_ops import op_record
from litespark.run.composing import compose_parts
from litespark.run.preflight import place_of
from tests.stand_in_device import stand_in

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = {group: sorted(path.stem for path in (CONFIGS / group).glob("*.yaml")) for group in ("model", "experiment")}
NAMES["model"].remove("huggingface")  # whose sizes are those of a folder
OF_A_RUN = {
    f"experiment={name}": f"model={name.split('_')[0].replace('quickstart', 'tiny')}"
    for name in NAMES["experiment"]
    if name.endswith(("_sft", "_dpo", "_reward", "_grpo"))
}
"""The model of the run before."""
LONG = "data.seq_len=1024", "data.micro_batch_size=16"
GPU, CPU = torch.device("cuda"), torch.device("cpu")
R3 = StepShapes(sequences=4, length=4096, hidden_size=3072, num_heads=24, num_kv_heads=8, head_dim=128,
                intermediate_size=8192, vocab_size=32000, documents=True)  # fmt: skip
ON_CPU = Place(CPU, torch.float32, R3)
OF_OPS = {
    op: next(known.structure for known in backends.values() if known.structure) for op, backends in BACKENDS.items()
}
PLANTED = "tests.ops.planted_structure"


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    """What is asked of a CUDA device that is not here."""
    monkeypatch.setattr(triton_support, "_recording", TARGETS["sm_90"])


def planted(op: str, function: str) -> Backend:
    """With the structural cases of our kernels."""
    return Backend(function, structure=BACKENDS[op]["triton"].structure)


# ---------------------------------------------------------------- what shipped configs come to


@pytest.mark.parametrize(
    "overrides",
    [(f"experiment={name}",) for name in NAMES["experiment"]] + [(f"model={name}", *LONG) for name in NAMES["model"]],
    ids=lambda overrides: overrides[0],
)
def test_every_structural_case_of_what_is_shipped_is_verified(overrides):
    """On a GPU, and at the small sizes of Triton's interpreter."""
    model = [OF_A_RUN[one] for one in overrides if one in OF_A_RUN]
    parts = compose_parts([*overrides, *model, "data.document_mask=true"])
    on_gpu = place_of(parts, GPU, "bf16")
    shapes = replace(on_gpu.shapes, documents=True)
    for place in (replace(on_gpu, shapes=shapes), Place(GPU, torch.float32, shapes), Place(CPU, torch.float32, shapes)):
        for op, backends in BACKENDS.items():
            for backend in backends:
                if backend == "triton_2" and len(candidates(TARGETS["sm_90"], shapes.head_dim, place.dtype)) < 2:
                    continue
                sizes = sizes_for(op, backend, place)
                assert sizes.without == (), f"{op}={backend}"
                assert products(op, sizes.place.shapes) < 3e12


def products(op: str, shapes: StepShapes) -> float:
    """Operations of the matrix products of an op, forward and backward."""
    tokens, hidden_size = shapes.tokens, shapes.hidden_size
    return {
        "attention": 14 * shapes.tokens * shapes.length * shapes.num_heads * shapes.head_dim,
        "swiglu_linear": 6 * tokens * shapes.intermediate_size * hidden_size,
        "linear_cross_entropy": 8 * tokens * shapes.vocab_size * hidden_size,
    }.get(op, 0)


def test_at_r3_parts_are_as_kernels_count_them():
    """By their own functions, at the sizes of the run and at those of the verification."""
    place = Place(GPU, torch.bfloat16, R3, autocast=True)
    sizes = {op: sizes_for(op, "triton", place) for op in ("attention", "linear_cross_entropy", "fp8")}
    shapes = {op: found.place.shapes for op, found in sizes.items()}
    assert (shapes["attention"].sequences, shapes["attention"].num_kv_heads, shapes["attention"].num_heads) == (2, 2, 6)
    assert shapes["attention"].length >= 2048

    def number_of_chunks(tokens):
        return -(-tokens // chunks.rows_in_chunk(tokens, R3.vocab_size, 2))

    def tiles_of_a_program(rows):
        tile = rms_norm.tiling(R3.hidden_size, TARGETS["sm_90"])
        return rows / (tile.rows * rms_norm.backward_programs(rows, tile, TARGETS["sm_90"]))

    assert number_of_chunks(R3.tokens) == 4
    assert tiles_of_a_program(R3.tokens) == 64
    assert number_of_chunks(shapes["linear_cross_entropy"].tokens) == 1
    with rows_at_once(sizes["linear_cross_entropy"].rows_at_once):
        assert number_of_chunks(shapes["linear_cross_entropy"].tokens) == 3
    with rows_at_once(sizes["fp8"].rows_at_once):
        assert 2 < tiles_of_a_program(shapes["fp8"].tokens) < 64
    assert shapes["fp8"].tokens % 64 == 0
    with rows_at_once(16):
        assert tiles_of_a_program(R3.tokens) == R3.tokens / 16
    assert tiles_of_a_program(R3.tokens) == 64, "the limit is left behind"


@pytest.mark.parametrize(("length", "block"), [(101, 32), (112, 32), (512, 128), (2048, 128), (2048, 64)])
def test_documents_of_a_verification_lie_in_all_ways_in_the_blocks_of_a_kernel(length, block):
    case = cases("attention", replace(R3, sequences=2, length=length, num_heads=2, num_kv_heads=1), CPU)[1]
    assert of_documents(case.documents.index, block) == {
        f"a document that begins inside a block of {block}",
        f"a document that begins with a block of {block}",
        f"a document within a block of {block}",
        f"a document over a whole block of {block} and the next",
    }
    ends = case.documents.cu_seqlens()
    assert ends[-1] == ends[-2] == 2 * length, "as a batch has them, with empty ones at the end"


def test_the_cases_of_sizes_are_named():
    assert in_parts("tile", 10, 10) == set()
    assert in_parts("tile", 20, 10, most=3) == {"a second tile"}
    assert in_parts("tile", 21, 10) == {"a second tile", "a last tile that is not full"}
    assert in_parts("tile", 30, 10, most=3) == {"a second tile", "a third tile"}
    assert far(2**31) == set()
    assert far(2**31 + 1) == {"a tensor of more than 2147483648 values"}


def test_what_there_is_no_room_for_is_told_in_the_log_the_line_and_the_record(monkeypatch, caplog):
    monkeypatch.setitem(BACKENDS["swiglu"], "planted", planted("swiglu", "tests.ops.planted:right"))
    large = replace(R3, length=2**17)
    caplog.set_level(logging.WARNING)
    (found,) = verify("swiglu", "planted", replace(ON_CPU, shapes=large))
    assert found.passed
    assert found.without == ("a tensor of more than 2147483648 values",)
    assert str(found).endswith("is allowed; not covered: a tensor of more than 2147483648 values")
    (line,) = caplog.messages
    assert line.startswith("ops.swiglu=planted is verified without what it has in this run: a tensor of more than")
    assert op_record(Choice("swiglu", "planted", "planted", (), (found,))).verifications[0].without == [*found.without]
    assert sizes_for("attention", "sdpa", Place(GPU, torch.bfloat16, replace(R3, num_heads=2**16))).without


# ---------------------------------------------------------------- planted faults


@pytest.mark.parametrize(
    ("op", "fault", "tensor"),
    [
        ("attention", "second_sequence", "output 0"),
        ("attention", "second_key_value_head", "output 0"),
        ("attention", "gradient_of_second_key_value_head", "gradient of value"),
        ("attention", "second_head_of_a_group", "output 0"),
        ("attention", "third_block", "output 0"),
        ("attention", "last_block_not_full", "output 0"),
        ("attention", "border_inside_a_block", "output 0"),
        ("attention", "border_between_blocks", "output 0"),
        ("rope", "tables_of_the_first_sequence", "output 0"),
        ("rope", "second_block_of_heads", "output 0"),
        ("swiglu", "second_block_of_a_row", "output 0"),
        ("rms_norm", "second_tile_of_a_program", "gradient of weight"),
        ("rms_norm", "last_tile_not_full", "output 0"),
    ],
)
def test_a_fault_in_one_structural_case_is_caught(monkeypatch, op, fault, tensor):
    monkeypatch.setitem(
        BACKENDS[op], "planted", Backend(f"{PLANTED}:{fault}", structure=BACKENDS[op]["triton"].structure)
    )
    wrong = failures(verify(op, "planted", ON_CPU))
    assert wrong
    assert all(tensor in {each.tensor for each in found.differences if not each.passed} for found in wrong)


def test_a_fault_in_the_second_tile_of_a_program_of_fp8_is_caught(monkeypatch):
    monkeypatch.setitem(BACKENDS["fp8"], "planted", planted("fp8", f"{PLANTED}:SECOND_TILE_OF_A_PROGRAM"))
    wrong = failures(verify("fp8", "planted", replace(ON_CPU, fp8=Fp8Config())))
    assert {found.case.split(",")[0] for found in wrong} == {"add_rms_norm_backward"}


def _overwritten(total, a, b, first):
    return _accumulate(total, a, b, first=True)


def _without_the_last(*arguments):
    parts = list(_logits(*arguments))
    return iter(parts if len(parts) == 1 else parts[:-1])


_accumulate, _logits = chunks._accumulate, chunks._logits


@pytest.mark.parametrize(
    ("name", "fault", "tensor"),
    [("_accumulate", _overwritten, "gradient of weight"), ("_logits", _without_the_last, "gradient of hidden")],
)
@pytest.mark.parametrize("backend", ["chunked", "chunked_recompute"])
def test_a_fault_in_later_chunks_is_caught(monkeypatch, backend, name, fault, tensor):
    monkeypatch.setattr(chunks, name, fault)
    wrong = failures(verify("linear_cross_entropy", backend, ON_CPU))
    assert [found.case for found in wrong] == ["sum of losses", "losses of tokens"]
    assert all(tensor in {each.tensor for each in found.differences if not each.passed} for found in wrong)
    one_chunk = replace(ON_CPU, shapes=replace(R3, length=128, vocab_size=211))
    assert not failures(verify("linear_cross_entropy", backend, one_chunk)), "no later chunk in the run, and no fault"


def test_a_fault_in_later_chunks_is_caught_at_the_sizes_of_a_gpu(monkeypatch):
    """With narrow widths, and room for less than a chunk."""
    stand_in(monkeypatch)
    monkeypatch.setattr(verification, "_MEMORY_BYTES", 2**18)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2**16)
    monkeypatch.setattr(chunks, "LEAST_ROWS", 128)
    place = replace(ON_CPU, shapes=replace(R3, hidden_size=16, vocab_size=61))
    assert sizes_for("linear_cross_entropy", "chunked", place).place.shapes.tokens == 128
    assert not failures(verify("linear_cross_entropy", "chunked", place))
    monkeypatch.setattr(chunks, "_accumulate", _overwritten)
    assert failures(verify("linear_cross_entropy", "chunked", place))


def test_every_fast_backend_but_those_of_pytorchs_operations_names_its_cases():
    place = Place(GPU, torch.bfloat16, R3, autocast=True)
    for op, backends in BACKENDS.items():
        for backend in backends:
            # of those for CPUs two walk over parts by themselves
            without = {REFERENCE, "torch"} | ({"cpu"} if op not in ("attention", "linear_cross_entropy") else set())
            assert bool(structure(op, backend, place)) is (backend not in without), (op, backend)
