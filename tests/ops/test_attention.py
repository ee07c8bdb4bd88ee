"""Attention through PyTorch's kernels: every backend against the reference, and what is its own.

On a CPU the kernels of varlen are replaced by plain arithmetic of the same signature, and flex has no backward pass.
"""

import inspect
import math

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask

from litespark.ops.attention import flex, on_cpu, varlen
from litespark.ops.attention.documents import Documents
from litespark.ops.attention.flex import attention_flex, block_mask
from litespark.ops.attention.reference import attention
from litespark.ops.attention.sdpa import attention_sdpa, expected_kernel, kernel_taken
from litespark.ops.attention.varlen import attention_varlen
from litespark.ops.backend import BACKENDS as ALL_BACKENDS
from litespark.ops.backend import load, why_not
from litespark.ops.shapes import StepShapes
from litespark.ops.tolerance import LOW_PRECISION_BOUND, relative_distance
from tests.ops.assertions import assert_op_matches

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
REAL = varlen.varlen_attn
LENGTH = 33
INDEX = torch.tensor([[0] * 5 + [1] * 1 + [2] * 27, [0] * 33], dtype=torch.int32)
# as a batch gives them: with empty documents at the end
BOUNDARIES = torch.tensor([0, 5, 6, 33, 66, 66, 66, 66], dtype=torch.int32)
KNOWN = ALL_BACKENDS["attention"]
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def plain(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1), scale=None, **options):
    """What `varlen_attn` promises, document by document; refuses what its kernels refuse."""
    inspect.signature(REAL).bind(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size=window_size, scale=scale, **options
    )
    assert {x.dtype for x in (query, key, value)} <= {torch.bfloat16, torch.float16}
    assert {x.stride(-1) for x in (query, key, value)} == {1}
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    group = query.shape[1] // key.shape[1]
    if "enable_gqa" in inspect.signature(REAL).parameters:
        assert options.get("enable_gqa", False) == (group > 1)
    left, right = window_size
    assert right == 0
    outputs = []
    for start, end in zip(cu_seq_q.tolist(), cu_seq_q.tolist()[1:], strict=False):
        assert end - start <= max_q
        q, k, v = (x[start:end].float().transpose(0, 1) for x in (query, key, value))
        k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        distance = torch.arange(end - start)[:, None] - torch.arange(end - start)
        hidden = (distance < 0) | ((distance > left) if left >= 0 else False)
        scores = (q @ k.transpose(1, 2) * (scale or q.shape[-1] ** -0.5)).masked_fill(hidden, -torch.inf)
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1).to(value.dtype))
    return torch.cat(outputs)


@pytest.fixture(autouse=True)
def _kernels_of_varlen(monkeypatch):
    if not HAS_GPU:
        monkeypatch.setattr(varlen, "varlen_attn", plain)


def draw(length=LENGTH, heads=4, kv_heads=2, width=16, queries=None, device=DEVICE):
    generator = torch.Generator().manual_seed(0)
    counts = {"query": (queries or length, heads), "key": (length, kv_heads), "value": (length, kv_heads)}
    return {
        name: torch.randn(2, positions, count, width, generator=generator).to(device)
        for name, (positions, count) in counts.items()
    }


def packed(given=True):
    return Documents(INDEX.to(DEVICE), BOUNDARIES.to(DEVICE) if given else None)


def documents_of(length, seed=0):
    numbers = torch.randint(0, 5, (2, length), generator=torch.Generator().manual_seed(seed))
    return Documents(numbers.sort(dim=1).values.to(DEVICE))


def within(backend, documents=None, window=None, scale=None, softcap=None):
    return lambda query, key, value: backend(query, key, value, documents, window, scale, softcap)


# ---------------------------------------------------------------- every backend


# the dtypes in which outputs and gradients are compared here
DTYPES = {
    "sdpa": (torch.float32, torch.bfloat16),
    "cpu": (torch.bfloat16,),
    "varlen": (torch.bfloat16, torch.float16),
    "flex": (torch.float32, torch.bfloat16, torch.float16) if HAS_GPU else (),
}
BACKENDS = pytest.mark.parametrize("name", ["sdpa", "cpu", "varlen", "flex", "triton"])


@pytest.mark.parametrize(("name", "dtype"), [(name, dtype) for name, dtypes in DTYPES.items() for dtype in dtypes])
@pytest.mark.parametrize("documents", ["none", "given", "counted"])
@pytest.mark.parametrize(("kv_heads", "window"), [(1, None), (2, 7), (4, 2), (2, 100)])
def test_outputs_and_gradients_equal_the_reference(name, dtype, documents, kv_heads, window):
    found = None if documents == "none" else packed(documents == "given")
    inputs = draw(kv_heads=kv_heads)
    assert_op_matches(within(load("attention", name), found, window), within(attention, found, window), inputs, dtype)


@pytest.mark.parametrize(("name", "dtype"), [(name, dtype) for name, dtypes in DTYPES.items() for dtype in dtypes])
@pytest.mark.parametrize(("documents", "window"), [(False, None), (False, 7), (True, None)])
def test_outputs_and_gradients_of_scaled_scores_equal_the_reference(name, dtype, documents, window):
    rest = packed() if documents else None, window, 0.7
    assert_op_matches(within(load("attention", name), *rest), within(attention, *rest), draw(), dtype)


@pytest.mark.parametrize("name", sorted(KNOWN.keys() - {"triton_2"}))
def test_a_backend_takes_a_softcap_or_refuses_it_as_the_table_states(name):
    assert KNOWN["triton_2"].softcap is KNOWN["triton"].softcap, "which has the same kernels"
    dtype = torch.bfloat16 if name in ("cpu", "varlen") else torch.float32
    inputs = {each: x.to(dtype) for each, x in draw().items()}
    for queries in (LENGTH, 3):
        given = inputs | {"query": inputs["query"][:, :queries]}
        if KNOWN[name].softcap:
            found = load("attention", name)(**given, scale=0.9, softcap=2.0)
            assert relative_distance(found, attention(**given, scale=0.9, softcap=2.0)) < 1e-5
        else:
            with pytest.raises(
                ValueError, match=rf"attention={name}: softcap is 2\.0, .* choose .*triton or reference"
            ):
                load("attention", name)(**given, scale=0.9, softcap=2.0)


@pytest.mark.parametrize("name", KNOWN.keys())
@pytest.mark.parametrize(("option", "value"), [("scale", 0.0), ("scale", math.nan), ("softcap", -1.0)])
def test_factors_that_are_not_above_zero_are_refused(name, option, value):
    with pytest.raises(ValueError, match=rf"{option} is {value}, "):
        load("attention", name)(**{each: x.bfloat16() for each, x in draw(4).items()}, **{option: value})


@pytest.mark.parametrize(
    ("length", "documents", "window", "softcap"),
    [(33, False, 20, None), (33, True, None, 2.0), (300, True, 20, None)],
)
def test_outputs_of_flex_attention_equal_the_reference_without_a_gpu_too(length, documents, window, softcap):
    inputs, found = draw(length), documents_of(length) if documents else None
    options = {"documents": found, "window": window, "scale": 0.4, "softcap": softcap}
    expected = attention(**inputs, **options)
    assert relative_distance(attention_flex(**inputs, **options), expected) < 1e-5
    low = attention_flex(**{name: x.bfloat16() for name, x in inputs.items()}, **options)
    assert low.dtype == torch.bfloat16
    assert relative_distance(low, expected) < LOW_PRECISION_BOUND


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_backward_pass_for_cpus_joins_blocks_of_queries(documents, compiled, monkeypatch):
    monkeypatch.setattr(on_cpu, "_QUERIES", 8)
    found = packed(True) if documents else None
    op = within(on_cpu.attention_cpu, found)
    if compiled:
        torch.compiler.reset()
        op = torch.compile(op, fullgraph=True, backend="aot_eager")
    assert_op_matches(op, within(attention, found), draw(kv_heads=2), torch.bfloat16)


@BACKENDS
def test_queries_behind_cached_keys_equal_the_reference(name):
    for queries in (1, 7):
        dtype = torch.bfloat16 if name == "varlen" else torch.float32
        assert_op_matches(load("attention", name), attention, draw(12, queries=queries), dtype)


@BACKENDS
def test_autocast_decides_the_dtype(name):
    inputs = draw()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        output = load("attention", name)(inputs["query"].bfloat16(), inputs["key"], inputs["value"])
    assert output.dtype == torch.bfloat16
    assert relative_distance(output, attention(**inputs)) < LOW_PRECISION_BOUND


@pytest.mark.parametrize(
    ("name", "dtype", "width", "match"),
    [
        ("varlen", torch.float32, 16, r"attention=varlen: got torch\.float32, expected bf16 or fp16"),
        ("triton", torch.float64, 16, r"float64 and torch.float64; expected the same of fp32, bf16 and fp16"),
        ("triton", torch.float32, 264, r"head_dim is 264; expected 1 to 256: choose ops\.attention=sdpa"),
    ],
)
def test_what_a_backend_does_not_take_is_refused(name, dtype, width, match):
    inputs = (x.to(dtype) for x in draw(5, width=width).values())
    with pytest.raises(ValueError, match=match):
        load("attention", name)(*inputs)


@pytest.mark.parametrize(
    ("name", "kind", "dtype", "width", "capability", "reason"),
    [
        ("flex", "cpu", torch.float32, 64, (9, 0), "no backward pass on CPUs"),
        ("flex", "mps", torch.float32, 64, (9, 0), "not on mps"),
        ("flex", "cuda", torch.float64, 64, (9, 0), "not torch.float64"),
        ("flex", "cuda", torch.bfloat16, 8, (9, 0), "at least 16, not 8"),
        ("varlen", "cpu", torch.bfloat16, 64, (9, 0), "CUDA devices only, not for cpu"),
        ("varlen", "cuda", torch.float32, 64, (9, 0), "bf16 and fp16, not torch.float32"),
        ("varlen", "cuda", torch.bfloat16, 64, (7, 5), "compute capability 8.0"),
        ("varlen", "cuda", torch.bfloat16, 44, (9, 0), "multiples of 8 up to 256, not 44"),
        ("varlen", "cuda", torch.bfloat16, 224, (8, 9), "no backward pass for head_dim 224"),
        ("varlen", "cuda", torch.bfloat16, 224, (9, 0), None),
        ("triton", "cuda", torch.bfloat16, 264, (9, 0), "head_dim up to 256, not 264"),
    ],
)
def test_a_backend_that_cannot_run_has_a_reason(monkeypatch, name, kind, dtype, width, capability, reason):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    shapes = StepShapes(2, 33, 64, 4, 2, width, 96, 300, documents=True)
    found = why_not("attention", name, torch.device(kind), dtype, shapes)
    assert (found is None) if reason is None else (reason in found)


# ---------------------------------------------------------------- flex attention


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize(("length", "window"), [(300, None), (512, 40), (513, 129), (384, 1), (128, 200)])
def test_block_masks_are_those_that_pytorch_finds_pair_by_pair(length, window, documents):
    found = block_mask(length, DEVICE, documents_of(length) if documents else None, window)
    expected = create_block_mask(found.mask_mod, 2 if documents else 1, 1, length, length, device=DEVICE)
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(found.to_dense(), expected.to_dense())


def test_block_masks_are_made_once_for_all_layers():
    documents = documents_of(64)
    assert block_mask(64, DEVICE, documents, None) is block_mask(64, DEVICE, documents, None)
    assert block_mask(64, DEVICE, documents, None) is not block_mask(64, DEVICE, documents, 8)
    with torch.inference_mode():
        of_validation = block_mask(64, DEVICE, None, None)
    assert of_validation is block_mask(64, DEVICE, None, 64)
    assert not of_validation.kv_indices.is_inference()


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    """Counts what `attention_flex` has compiled, by a compiler that leaves the operations as they are."""
    torch._dynamo.reset()
    counter, compile_ = CompileCounterWithBackend("eager"), torch.compile
    flex._compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_(function, backend=counter, **options))
    flex._compiled()
    monkeypatch.undo()
    monkeypatch.setattr(flex, "_attend", lambda device: flex._compiled())
    yield counter
    flex._compiled.cache_clear()


def test_other_documents_of_the_same_sizes_compile_nothing_anew(compilations):
    inputs = draw(150)
    for seed in range(4):
        options = {"documents": documents_of(150, seed), "softcap": 2.0}
        assert relative_distance(attention_flex(**inputs, **options), attention(**inputs, **options)) < 1e-5
    assert compilations.frame_count == 1


def test_more_kinds_of_masks_and_sizes_than_pytorch_compiles_by_itself_are_compiled(compilations):
    lengths = range(130, 130 + torch._dynamo.config.recompile_limit + 1)
    for length in lengths:
        attention_flex(**draw(length, heads=1, kv_heads=1))
    assert compilations.frame_count == len(lengths)


@pytest.mark.parametrize(("documents", "window", "softcap"), [(False, None, None), (True, 7, 2.0)])
def test_flex_attention_is_part_of_the_graph_of_a_compiled_model(documents, window, softcap):
    inputs, index = draw(140), documents_of(140).index

    def block(query, key, value, index):
        return attention_flex(query, key, value, Documents(index) if documents else None, window, None, softcap)

    found = torch.compile(block, fullgraph=True, backend="aot_eager")(*inputs.values(), index)
    packed = Documents(index) if documents else None
    expected = attention(**inputs, documents=packed, window=window, softcap=softcap)
    assert relative_distance(found, expected) < 1e-5


# ---------------------------------------------------------------- PyTorch's own choice of kernels


@pytest.mark.parametrize("documents", [False, True])
def test_the_kernel_that_is_named_is_the_one_that_pytorch_takes(documents):
    inputs, found = draw(device="cpu"), Documents(INDEX) if documents else None
    with sdpa_kernel(SDPBackend.MATH):
        assert kernel_taken(**inputs, documents=found) == "math"
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        assert kernel_taken(**inputs, documents=found) == "flash"


def test_the_kernel_is_named_for_the_dtype_that_autocast_computes_in(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "_fused_sdp_choice", lambda **arguments: asked.append(arguments["query"].dtype) or 0)
    with torch.autocast("cpu", torch.bfloat16):
        kernel_taken(**draw(8, device="cpu"))
    assert asked == [torch.bfloat16]


@pytest.mark.parametrize(
    ("capability", "dtype", "width", "expected"),
    [
        ((9, 0), torch.bfloat16, 128, "cudnn"),
        ((9, 0), torch.float32, 128, None),
        ((9, 0), torch.bfloat16, 256, None),
        ((8, 0), torch.bfloat16, 128, None),
    ],
)
def test_cudnn_is_demanded_on_hopper_alone(monkeypatch, capability, dtype, width, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert expected_kernel(torch.device("cuda"), dtype, width) == expected
    assert expected_kernel(torch.device("cpu"), dtype, width) is None


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_causal_case_takes_the_kernel_that_is_demanded_of_this_device(dtype):
    device = torch.device("cuda")
    if (expected := expected_kernel(device, dtype, 128)) is None:
        pytest.skip("no kernel is demanded of this device")
    inputs = {name: x.to(device, dtype).requires_grad_() for name, x in draw(512, 24, 8, 128).items()}
    assert kernel_taken(**inputs) == expected
    attention_sdpa(**inputs).sum().backward()


# ---------------------------------------------------------------- varlen


def test_sizes_and_graphs_of_varlen_pass_through_without_a_device(monkeypatch):
    monkeypatch.setattr(varlen, "varlen_attn", REAL)
    inputs = {name: x.bfloat16().requires_grad_() for name, x in draw(device="meta").items()}

    def step(query, key, value, index, cu_seqlens):
        return attention_varlen(query, key, value, Documents(index, cu_seqlens), 7)

    rest = (INDEX.to("meta"), BOUNDARIES.to("meta"))
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for function in (step, compiled):
        output = function(*inputs.values(), *rest)
        assert output.shape == (2, LENGTH, 4, 16)
        gradients = torch.autograd.grad(output.sum(), list(inputs.values()))
        assert [x.shape for x in gradients] == [x.shape for x in inputs.values()]
