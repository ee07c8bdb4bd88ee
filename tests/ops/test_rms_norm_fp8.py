"""RMSNorm that casts on its way against the reference pieces: streams, codes of both layouts, amax, counts."""

from dataclasses import replace

import pytest
import torch
import triton.language as tl
from litespark.ops.rms_norm_fp8.function import add_rms_norm_backward_cast, add_rms_norm_cast

from litespark.ops.fp8.formats import E4M3, E5M2, dequantised
from litespark.ops.fp8.quantisation import Quantisation
from litespark.ops.fp8.reference import PIECES
from litespark.ops.rms_norm_fp8 import kernels
from litespark.ops.tolerance import fresh_memory_is_nan, relative_distance
from litespark.ops.triton_support import interpreting
from tests.ops.fp8_inputs import codes_apart
from tests.properties import Phase, given, settings, st

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EPSILON = 1e-5
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
# of the stream and weight, and of what comes from and goes to products
DTYPES = [(FP32, BF16), (BF16, BF16), (FP16, FP16), (FP32, FP32)]
# of codes, which a last bit before the cast may turn over
SHARE = 1e-3


def _inputs(rows, width, stream=FP32, other=BF16, seed=0):
    """What both passes read, but for the inverse of the root mean square."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x": stream, "update": other, "norm_gradient": other, "stream_gradient": stream}
    found = {name: torch.randn(rows, width, generator=generator).to(DEVICE, dtype) for name, dtype in shapes.items()}
    return found | {"weight": (torch.rand(width, generator=generator) + 0.5).to(DEVICE, stream)}


def _quantisation(format=E4M3, scale=None, **changes):
    """Of a scale that lets a few values saturate and a few become zero."""
    scale = 4 / format.largest if scale is None else scale
    scale = 2.0 ** torch.tensor(scale).log2().floor()
    amax = torch.zeros((), dtype=torch.int32, device=DEVICE)
    counts = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    return replace(Quantisation(format, scale=scale.to(DEVICE), amax=amax, counts=counts), **changes)


def _forward(inputs, quantisation, *, fast=True):
    x, update, weight = inputs["x"], inputs["update"], inputs["weight"]
    if fast:
        with fresh_memory_is_nan():
            stream, operand, inverse_rms = add_rms_norm_cast(x, update, weight, EPSILON, x.dtype, quantisation)
    else:
        stream, operand, inverse_rms = PIECES.add_rms_norm(
            x, update, weight, EPSILON, quantisation, stream_dtype=x.dtype, dtype=BF16
        )
    return {"stream": stream, "inverse_rms": inverse_rms} | _quantised(operand, quantisation)


def _backward(inputs, quantisation, *, fast=True):
    """The gradient of a stream that is `x`."""
    stream = inputs["x"]
    inverse_rms = torch.rsqrt(stream.float().square().mean(dim=1) + EPSILON)
    passed = inputs["norm_gradient"], inputs["stream_gradient"], stream, inputs["weight"], inverse_rms, quantisation
    if fast:
        with fresh_memory_is_nan():
            gradient, operand, weight_gradient = add_rms_norm_backward_cast(*passed)
    else:
        gradient, operand, weight_gradient = PIECES.add_rms_norm_backward(*passed, dtype=BF16)
    return {"gradient": gradient, "weight_gradient": weight_gradient} | _quantised(operand, quantisation)


def _quantised(operand, quantisation):
    layouts = {"rows": operand.rows, "columns": operand.columns}
    for matrix in layouts.values():
        assert matrix is None or (
            matrix.scale is quantisation.scale and matrix.values.dtype == quantisation.format.dtype
        )
    codes = {name: matrix.values for name, matrix in layouts.items() if matrix is not None}
    noted = {"amax": quantisation.amax, "counts": quantisation.counts}
    return codes | {name: each.clone() for name, each in noted.items() if each is not None}


def _complaints(actual, expected):
    """What is further from the reference than the last bit before the cast explains."""
    found = [] if actual.keys() == expected.keys() else [f"got {list(actual)}, expected {list(expected)}"]
    for name in actual.keys() & expected.keys():
        one, other = actual[name], expected[name]
        if one.shape != other.shape or one.dtype != other.dtype:
            found.append(f"{name}: {one.dtype} {tuple(one.shape)}, expected {other.dtype} {tuple(other.shape)}")
        elif name in ("rows", "columns"):
            apart = codes_apart(one.view(torch.uint8), other.view(torch.uint8))
            if apart.numel() and (apart.max() > 1 or apart.count_nonzero() > max(1, SHARE * apart.numel())):
                found.append(f"{name}: {apart.count_nonzero()} codes differ, by up to {apart.max()}")
        elif name == "amax":
            values = torch.stack([one, other]).view(FP32)
            if not torch.allclose(values[0], values[1], rtol=1e-5, atol=0, equal_nan=True):
                found.append(f"amax: {values.tolist()}")
        elif name == "counts":
            if (one - other).abs().max() > 1:
                found.append(f"counts: {one.tolist()}, expected {other.tolist()}")
        elif name == "stream":
            if not torch.equal(one, other):
                found.append("stream: not equal")
        elif (distance := relative_distance(one, other)) > (1e-5 if one.dtype == FP32 else 1e-3):
            found.append(f"{name}: relative distance {distance}")
    return found


def _compare(run, inputs, **changes):
    expected = run(inputs, _quantisation(**changes), fast=False)
    actual = run(inputs, _quantisation(**changes))
    assert _complaints(actual, expected) == []
    return actual


# ---------------------------------------------------------------- against the reference


@pytest.mark.parametrize("run", [_forward, _backward])
@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    rows=st.integers(1, 70),
    # of the gradient of a narrower row hardly anything is left
    width=st.integers(8, 300),
    dtypes=st.sampled_from(DTYPES),
    format=st.sampled_from([E4M3, E5M2]),
    addition=st.booleans(),
)
def test_all_that_is_made_equals_the_reference(run, rows, width, dtypes, format, addition):
    inputs = _inputs(rows, width, *dtypes)
    _compare(run, inputs if addition else inputs | {"update": None, "stream_gradient": None}, format=format)


@pytest.mark.parametrize("run", [_forward, _backward])
def test_the_width_of_a_real_model(run):
    _compare(run, _inputs(3, 3072))


@pytest.mark.parametrize("run", [_forward, _backward])
@pytest.mark.parametrize("room", [0, 2**40], ids=["16 rows", "32 rows"])
def test_a_program_walks_many_tiles(monkeypatch, run, room):
    monkeypatch.setattr(kernels, "PROGRAMS", 2)
    monkeypatch.setattr(kernels, "_IN_L2", room)
    tile = kernels.tiling(260, 4)
    assert tile.rows == (32 if room else 16)
    assert kernels.dealt(150, tile)[0] == 2
    _compare(run, _inputs(150, 260))


def test_tiles_leave_room_in_l2():
    # a stream in fp32 and one in bf16 of a 3B Llama, and a narrow one
    assert [kernels.tiling(width, size).rows for width, size in ((3072, 4), (3072, 2), (768, 6))] == [16, 32, 32]
    assert all(kernels.tiling(width, 4).chunk <= 256 for width in (1, 300, 3072, 100_000))


def test_the_norm_is_that_of_the_rounded_stream():
    inputs = _inputs(1, 2, BF16) | {
        "x": torch.tensor([[256.0, 1.0]], dtype=BF16, device=DEVICE),
        "update": torch.tensor([[0.9, 1.0]], dtype=BF16, device=DEVICE),
    }
    found = _compare(_forward, inputs)
    assert found["stream"].tolist() == [[256.0, 2.0]]
    assert found["inverse_rms"].tolist() == pytest.approx([((256**2 + 4) / 2 + EPSILON) ** -0.5], rel=1e-6)


def test_codes_come_from_fp32_and_not_from_the_gradient_as_it_is_written():
    # 1 + 2^-4 lies between two codes of e4m3, 1 and 1.125, a hair above the middle that bf16 would round it to
    value = 1 + 2.0**-4 + 2.0**-12
    inputs = _inputs(1, 16, BF16, FP32) | {"stream_gradient": torch.full((1, 16), value, device=DEVICE)}
    inputs["norm_gradient"].zero_()
    found = _compare(_backward, inputs, scale=1.0)
    assert found["gradient"].float().unique().tolist() == [1.0625]
    assert found["rows"].float().unique().tolist() == [1.125]


@pytest.mark.parametrize("run", [_forward, _backward])
def test_inputs_of_other_dtypes(run):
    inputs = _inputs(18, 40, BF16, FP32)
    _compare(run, inputs | {"weight": inputs["weight"].float(), "stream_gradient": inputs["stream_gradient"].float()})


# ---------------------------------------------------------------- what is emitted


@pytest.mark.parametrize("run", [_forward, _backward])
def test_each_layout_is_made_only_where_it_is_wanted(run):
    inputs = _inputs(40, 70)
    both = run(inputs, _quantisation())
    assert torch.equal(both["rows"].view(torch.uint8).T, both["columns"].view(torch.uint8))
    for unwanted in (("rows",), ("columns",), ("rows", "columns")):
        found = run(inputs, _quantisation(**dict.fromkeys(unwanted, False)))
        assert found.keys() == both.keys() - set(unwanted)
        assert all(_same(each, both[name]) for name, each in found.items())


@pytest.mark.parametrize("run", [_forward, _backward])
def test_nothing_is_noted_where_it_is_not_wanted(run):
    inputs = _inputs(40, 70)
    noting = run(inputs, _quantisation())
    found = run(inputs, _quantisation(amax=None, counts=None))
    assert found.keys() == noting.keys() - {"amax", "counts"}
    assert all(_same(each, noting[name]) for name, each in found.items())


@pytest.mark.parametrize("run", [_forward, _backward])
def test_amax_is_raised_and_counts_are_added_to(run):
    inputs = _inputs(40, 70)
    once = run(inputs, _quantisation())
    quantisation = _quantisation()
    run(inputs, quantisation)
    assert torch.equal(run(inputs, quantisation)["counts"], 2 * once["counts"])
    assert torch.equal(quantisation.amax, once["amax"])
    higher = torch.tensor(1e9, device=DEVICE).view(torch.int32)
    assert run(inputs, _quantisation(amax=higher.clone()))["amax"] == higher


@pytest.mark.parametrize("run", [_forward, _backward])
def test_what_saturates_and_what_becomes_zero_is_counted(run):
    inputs = _inputs(40, 70)
    for scale, place in ((2.0**-12, 0), (2.0**9, 1)):
        found = _compare(run, inputs, scale=scale)
        assert found["counts"][place] > 100
        assert found["counts"][1 - place] == 0
        size = found["rows"].float().abs()
        assert int((size == (E4M3.largest, 0)[place]).sum()) >= found["counts"][place]


@pytest.mark.parametrize("run", [_forward, _backward])
@pytest.mark.parametrize("planted", [float("-inf"), float("nan")])
def test_what_is_not_finite_reaches_the_codes_of_its_row_and_no_other(run, planted):
    inputs = _inputs(40, 300)
    clean = run(inputs, _quantisation())
    inputs["x"][33, 270] = planted
    expected, found = run(inputs, _quantisation(), fast=False), run(inputs, _quantisation())
    for name, codes in (("rows", found["rows"]), ("columns", found["columns"].view(torch.uint8).T)):
        values = codes.view(expected["rows"].dtype).float()
        assert bool(values[33].isnan().any()), name
        assert torch.equal(values.isnan(), expected["rows"].float().isnan()), name
        others = torch.arange(40, device=DEVICE) != 33
        assert torch.equal(values[others], clean["rows"].float()[others]), name
    # above all that is finite, and above infinity where it is NaN
    assert found["amax"].view(FP32).isnan() == expected["amax"].view(FP32).isnan()
    assert not found["amax"].view(FP32).isfinite()
    assert torch.equal(found["counts"], expected["counts"])


def test_an_infinite_gradient_is_noted_as_such():
    inputs = _inputs(40, 70)
    inputs["stream_gradient"][33, 60] = float("inf")
    found = _compare_but_for_gradients(inputs)
    assert found["amax"].view(FP32) == float("inf")
    assert bool(found["rows"].float()[33, 60].isnan())


def _compare_but_for_gradients(inputs):
    """Of tensors that hold infinities no distance is defined."""
    kept = ("rows", "columns", "amax", "counts")
    expected, actual = (_backward(inputs, _quantisation(), fast=fast) for fast in (False, True))
    assert _complaints({name: actual[name] for name in kept}, {name: expected[name] for name in kept}) == []
    assert torch.equal(actual["gradient"].isinf(), expected["gradient"].isinf())
    return actual


# ---------------------------------------------------------------- sizes and strides


@pytest.mark.parametrize("run", [_forward, _backward])
@pytest.mark.parametrize(
    "view",
    [lambda x: x[::2], lambda x: x[:, 3:20], lambda x: x.T, lambda x: x[:1].expand(4, -1), lambda x: x[:, ::2]],
    ids=["rows apart", "columns cut", "transposed", "one row repeated", "columns apart"],
)
def test_strides(run, view):
    inputs = {name: view(x) for name, x in _inputs(24, 24).items() if name != "weight"}
    weights = torch.rand(2 * inputs["x"].shape[1], device=DEVICE)
    _compare(run, inputs | {"weight": weights[::2]})


def test_rows_beyond_two_to_the_31():
    stride, width = 2**30 + 8, 20
    small = _inputs(3, width, BF16)
    far = {}
    for name in ("x", "update", "norm_gradient", "stream_gradient"):
        memory = torch.empty(2 * stride + width, dtype=BF16, device=DEVICE)
        far[name] = memory.as_strided((3, width), (stride, 1)).copy_(small[name])
    for run in (_forward, _backward):
        near, found = run(small, _quantisation()), run(small | far, _quantisation())
        assert all(_same(near[name], found[name]) for name in near)


def test_columns_beyond_two_to_the_31():
    rows, tile = 2**30, kernels.Tiling(16, 16)
    # one program that casts one tile of very many rows, and sums up the next
    inputs = _inputs(2 * tile.rows, 4, BF16)
    expected, quantisation = _forward(inputs, _quantisation()), _quantisation()
    columns = torch.empty(3 * rows + tile.rows, dtype=torch.uint8, device=DEVICE)
    kernels.add_rms_norm_fp8_forward_kernel[(1,)](
        inputs["x"],
        inputs["update"],
        inputs["weight"],
        torch.empty_like(inputs["x"]),
        None,
        columns,
        torch.empty(2 * tile.rows, device=DEVICE),
        quantisation.scale,
        None,
        None,
        rows,
        tl.constexpr(1) if interpreting() else 1,
        4,
        4,
        EPSILON,
        WIDTH=4,
        ROWS=tile.rows,
        CHUNK=tile.chunk,
        MANTISSA_BITS=3,
        num_warps=kernels.NUM_WARPS,
    )
    found = torch.stack([columns[column * rows :][: tile.rows] for column in range(4)], dim=1)
    assert torch.equal(found, expected["rows"].view(torch.uint8)[: tile.rows])


@pytest.mark.parametrize("shape", [(0, 8), (3, 0)])
def test_nothing_gives_nothing(shape):
    inputs = _inputs(*shape)
    found = _forward(inputs, _quantisation())
    assert found["stream"].shape == found["rows"].shape == found["columns"].T.shape == shape
    assert found["inverse_rms"].shape == shape[:1]
    found = _backward(inputs, _quantisation())
    assert found["gradient"].shape == found["rows"].shape == shape
    assert torch.equal(found["weight_gradient"], torch.zeros(shape[1], device=DEVICE))
    assert found["amax"] == 0
    assert not found["counts"].any()


@pytest.mark.parametrize("run", [_forward, _backward])
def test_results_are_the_same_bits_each_time(run):
    inputs = _inputs(70, 66)
    first, second = run(inputs, _quantisation()), run(inputs, _quantisation())
    assert all(_same(first[name], second[name]) for name in first)


def _same(one, other):
    """The same bits: of codes too, which cannot be compared as they are."""
    as_bytes = [each.contiguous().view(torch.uint8) for each in (one, other)] if one.ndim else [one, other]
    return torch.equal(*as_bytes)


# ---------------------------------------------------------------- planted faults


def _planted(name, fault):
    """Results of the reference with a fault in one of them."""
    found = _backward(_inputs(40, 70), _quantisation(), fast=False)
    return found, found | {name: fault(found[name])}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("rows", lambda codes: (dequantised(codes, None) * 2).clamp(-448, 448).to(codes.dtype)),
        ("rows", lambda codes: (dequantised(codes, None) * 1.07).to(codes.dtype)),
        ("columns", lambda codes: codes.view(torch.uint8).roll(1, 1).view(codes.dtype)),
        ("columns", lambda codes: codes.T),
        ("amax", lambda bits: bits + 2**10),
        ("counts", lambda counts: counts + 2),
        ("gradient", lambda gradient: gradient * 1.0001),
        ("weight_gradient", lambda gradient: gradient * 1.0001),
        ("gradient", lambda gradient: gradient * float("nan")),
    ],
)
def test_a_fault_in_any_result_is_seen(name, fault):
    expected, faulty = _planted(name, fault)
    assert _complaints(expected, expected) == []
    (complaint,) = _complaints(faulty, expected)
    assert complaint.startswith(name)


def test_a_kernel_that_reads_the_wrong_tile_is_seen(monkeypatch):
    monkeypatch.setattr(kernels, "PROGRAMS", 2)
    inputs = _inputs(70, 40)
    expected = _forward(inputs, _quantisation(), fast=False)
    before = kernels.add_rms_norm_fp8_forward_kernel

    class Late:
        """The kernel with one step too few, so that the last tiles are never cast."""

        def __getitem__(self, grid):
            def launch(*arguments, **constants):
                arguments = list(arguments)
                arguments[11] = tl.constexpr(int(getattr(arguments[11], "value", arguments[11])) - 1)
                return before[grid](*arguments, **constants)

            return launch

    monkeypatch.setattr("litespark.ops.rms_norm_fp8.kernels.add_rms_norm_fp8_forward_kernel", Late())
    assert _complaints(_forward(inputs, _quantisation()), expected)
