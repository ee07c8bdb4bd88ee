"""The fused pieces of blocks in fp8 against the reference pieces, and that what can be fused is.

Results are compared as `litespark verify` compares them, in every way that a step asks for them.
"""

from dataclasses import replace

import pytest
import torch

from litespark.ops.fp8 import fused, kernels
from litespark.ops.fp8.formats import E4M3, E5M2
from litespark.ops.fp8.fused import PIECES as FUSED
from litespark.ops.fp8.fused import PIECES_APART
from litespark.ops.fp8.operands import Quantisation
from litespark.ops.fp8.settings import RECIPES
from litespark.ops.fp8.verification import way_differences
from litespark.ops.fp8.verification_pieces import Piece, kinds_of, pieces_to_verify
from litespark.ops.shapes import Place, StepShapes
from litespark.ops.swiglu_fp8 import kernels as swiglu_kernels
from tests.ops.fp8_inputs import assert_same
from tests.properties import Phase, given, settings, st

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FP32, BF16 = torch.float32, torch.bfloat16
NAMES = ["add_rms_norm", "add_rms_norm_backward", "swiglu", "swiglu_backward", "cast of activations"]
EACH = pytest.mark.parametrize("name", NAMES)
# the ways that read and write other matrices
LAYOUTS = ("", "rows only", "columns only", "product alone")
# the interpreter is NumPy, which tells where infinities and NaN come from
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")


def piece_of(name: str, rows: int = 60, width: int = 72, dtype: torch.dtype = BF16, autocast: bool = True) -> Piece:
    shapes = StepShapes(1, rows, width, 1, 1, 16, width, 64)
    pieces = pieces_to_verify(Place(DEVICE, dtype, shapes, autocast), (E5M2, E4M3))
    return next(piece for piece in pieces if piece.name == name)


def assert_right(piece: Piece, dtype: torch.dtype = BF16, names: tuple[str, ...] | None = None) -> None:
    """In all ways of a layer whose scales are known, which are those that are fused; a cast also where they are not.

    `names`: in these ways only."""
    kinds = RECIPES if piece.exact else ("delayed",)
    for way in (way for kind in kinds for way in piece.ways(kind, kinds_of(None))):
        if names is None or way.name in names:
            wrong = [each for each in way_differences(FUSED, piece, way, dtype) if not each.passed]
            assert not wrong, (way.name, wrong)


@EACH
def test_pieces_with_casts_of_their_own_equal_the_reference_that_rounds_before_each_cast(name, monkeypatch):
    for cast_on_the_way in ("swiglu_cast", "swiglu_backward_cast", "_both_layouts"):
        monkeypatch.setattr(fused, cast_on_the_way, lambda *_: pytest.fail("cast on the way"))
    piece = piece_of(name, rows=21, width=40)
    usual = next(piece.ways("delayed", kinds_of(None)))
    assert not [each for each in way_differences(PIECES_APART, piece, usual, BF16) if not each.passed]


def results(piece: Piece, **inputs: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """Of a counted call of the fused piece, with some inputs replaced."""
    way = next(way for way in piece.ways("delayed", kinds_of(None)) if way.counted)
    noting = way.noting(DEVICE)
    made = piece.call(FUSED, piece.inputs | inputs, noting, way.again, BF16)
    found = {"amax": noting.amax, "counts": noting.counts}
    for layout, matrix in vars(made["operand"]).items():
        found |= {layout: matrix.values.view(torch.uint8), f"{layout} scale": matrix.scale}
    return found | {name: value for name, value in made.items() if name not in ("operand", "product")}


# ---------------------------------------------------------------- against the reference


@EACH
@settings(max_examples=4, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    rows=st.integers(33, 70),
    width=st.integers(65, 140),
    dtypes=st.sampled_from([(BF16, True), (BF16, False), (torch.float16, False), (FP32, False)]),
)
def test_any_size_is_right_in_every_way(name, rows, width, dtypes):
    assert_right(piece_of(name, rows, width, *dtypes), dtypes[0])


@EACH
def test_whole_words_of_codes_and_single_ones_are_the_same(monkeypatch, name):
    """Rows in a multiple of 16 are written as words; a tile and a part of one."""
    piece = piece_of(name, 80, 20)
    in_words = results(piece)
    for module in (kernels, swiglu_kernels):
        monkeypatch.setattr(module, "whole", lambda rows: False)
    assert_same(results(piece), in_words)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: torch.stack([x, torch.full_like(x, torch.nan)])[0] if x.ndim > 1 else x,
        lambda x: torch.cat([x, torch.full_like(x, torch.nan)], dim=-1)[..., : x.shape[-1]],
        lambda x: torch.stack([x, torch.full_like(x, torch.nan)], dim=-1)[..., 0],
        lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
        lambda x: x[:1].expand_as(x),
    ],
    ids=["apart", "columns cut", "values apart", "transposed", "one row repeated"],
)
@EACH
def test_strides(name, view):
    piece = piece_of(name)
    assert_right(replace(piece, inputs={each: view(x) for each, x in piece.inputs.items()}), names=LAYOUTS)


@EACH
def test_largest_values_are_raised_and_counts_are_added_to(name):
    piece = piece_of(name)
    way = next(way for way in piece.ways("delayed", kinds_of(None)) if way.counted)
    once, twice = way.noting(DEVICE), way.noting(DEVICE)
    for noting in (once, twice, twice):
        piece.call(FUSED, piece.inputs, noting, way.again, BF16)
    assert torch.equal(twice.counts, 2 * once.counts)
    assert torch.equal(twice.amax, once.amax)
    higher = replace(once, amax=torch.tensor(1e9, device=DEVICE).view(torch.int32))
    piece.call(FUSED, piece.inputs, higher, way.again, BF16)
    assert higher.amax.view(FP32) == 1e9


@EACH
def test_results_are_the_same_bits_each_time(name):
    piece = piece_of(name)
    assert_same(results(piece), results(piece))


@pytest.mark.parametrize("sizes", [(0, 8), (3, 0)])
@EACH
def test_nothing_gives_nothing(name, sizes):
    piece = piece_of(name, 4, 8)
    # cut from inputs of some size: scales come from the largest value, and nothing has none
    cut = {
        each: x[: sizes[0], : x.shape[1] * sizes[1] // 8] if x.ndim > 1 else x[: sizes[1]]
        for each, x in piece.inputs.items()
    }
    found = results(piece, **cut)
    assert found["rows"].numel() == found["columns"].numel() == found["amax"] == 0
    assert not found["counts"].any()


# ---------------------------------------------------------------- far apart


@EACH
def test_rows_beyond_two_to_the_31(name):
    stride, piece = 2**30 + 8, piece_of(name, 3, 20, autocast=False)
    far = {}
    for each, x in piece.inputs.items():
        memory = torch.empty(2 * stride + 40, dtype=BF16, device=DEVICE)
        far[each] = memory.as_strided(x.shape, (stride, 1)).copy_(x) if x.ndim > 1 else x
    assert_same(results(piece, **far), results(piece))


# ---------------------------------------------------------------- a planted fault


def test_codes_that_are_turned_wrongly_are_seen(monkeypatch):
    turned = kernels.transpose

    def late(operand):
        turned(operand)
        operand.columns.values[:, -1] = operand.columns.values[:, 0]

    monkeypatch.setattr(kernels, "transpose", late)
    with pytest.raises(AssertionError, match="columns of operand"):
        assert_right(piece_of("add_rms_norm"))


# ---------------------------------------------------------------- as a set


@pytest.mark.parametrize("kind", ["plain", "known", "tensor"])
def test_what_can_be_fused_is_and_nothing_else(kind, monkeypatch):
    called = []

    def record(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *inputs: called.append(name) or function(*inputs))

    names = ["swiglu_cast", "swiglu_backward_cast"]
    for name in names:
        record(fused, name)
    record(fused.kernels, "cast")
    record(fused.kernels, "transpose")
    scale = torch.tensor(2.0**-6, device=DEVICE) if kind == "known" else None
    quantisation = Quantisation(None if kind == "plain" else E4M3, scale)
    for name in NAMES[:4]:
        piece = piece_of(name, 12, 40)
        piece.call(FUSED, piece.inputs, quantisation, quantisation if piece.makes_again else None, BF16)
    assert called == (["transpose", "transpose", *names] if kind == "known" else ["cast"] * 5)
