"""Attention through flex attention, against the reference; and its block masks, against those that PyTorch makes.

PyTorch has no backward pass of it for CPUs: gradients are tested where there is a GPU.
"""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention.flex_attention import create_block_mask

from litespark.ops.attention import flex
from litespark.ops.attention.documents import Documents
from litespark.ops.attention.flex import attention_flex, block_mask, why_not
from litespark.ops.attention.reference import attention
from litespark.ops.shapes import StepShapes
from litespark.ops.tolerance import LOW_PRECISION_BOUND, relative_distance
from tests.ops.assertions import assert_op_matches

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def draw(length, heads=4, num_kv_heads=2, width=16, queries=None):
    generator = torch.Generator().manual_seed(0)
    counts = {"query": (queries or length, heads), "key": (length, num_kv_heads), "value": (length, num_kv_heads)}
    return {
        name: torch.randn(2, rows, count, width, generator=generator).to(DEVICE)
        for name, (rows, count) in counts.items()
    }


def documents_of(length, seed=0):
    numbers = torch.randint(0, 5, (2, length), generator=torch.Generator().manual_seed(seed))
    return Documents(numbers.sort(dim=1).values.to(DEVICE))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("length", "window"), [(33, None), (300, None), (512, 40), (513, 129), (384, 1), (128, 200)])
def test_block_masks_are_those_that_pytorch_finds_pair_by_pair(length, window, packed):
    found = block_mask(length, DEVICE, documents_of(length) if packed else None, window)
    expected = create_block_mask(found.mask_mod, 2 if packed else 1, 1, length, length, device=DEVICE)
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(found.to_dense(), expected.to_dense())


def test_blocks_of_other_documents_are_skipped():
    numbers = torch.arange(1024, device=DEVICE)[None] // 256
    found = block_mask(1024, DEVICE, Documents(numbers), None)
    assert int(found.kv_num_blocks.sum() + found.full_kv_num_blocks.sum()) == 4 * 3


@pytest.mark.parametrize(
    ("length", "packed", "window"), [(33, False, 20), (33, True, None), (300, False, None), (300, True, 20)]
)
def test_outputs_equal_the_reference(length, packed, window):
    inputs, documents = draw(length), documents_of(length) if packed else None
    expected = attention(**inputs, documents=documents, window=window)
    assert relative_distance(attention_flex(**inputs, documents=documents, window=window), expected) < 1e-5
    low = {name: x.bfloat16() for name, x in inputs.items()}
    found = attention_flex(**low, documents=documents, window=window)
    assert found.dtype == torch.bfloat16
    assert relative_distance(found, expected) < LOW_PRECISION_BOUND


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no GPU: flex attention has no backward pass on CPUs")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("packed", [False, True])
def test_gradients_equal_the_reference(packed, window, dtype):
    documents = documents_of(300) if packed else None
    assert_op_matches(
        lambda query, key, value: attention_flex(query, key, value, documents, window),
        lambda query, key, value: attention(query, key, value, documents, window),
        draw(300, width=64),
        dtype,
    )


def test_queries_behind_cached_keys_equal_the_reference():
    assert_op_matches(attention_flex, attention, draw(33, queries=3), torch.float32)


def test_autocast_decides_the_dtype():
    with torch.autocast(DEVICE.type, torch.bfloat16):
        assert attention_flex(**draw(33)).dtype == torch.bfloat16


def test_the_mask_is_made_once_for_all_layers():
    documents = documents_of(64)
    assert block_mask(64, DEVICE, documents, None) is block_mask(64, DEVICE, documents, None)
    assert block_mask(64, DEVICE, documents, None) is not block_mask(64, DEVICE, documents, 8)
    assert block_mask(64, DEVICE, None, None) is block_mask(64, DEVICE, None, 64)


def test_a_mask_first_made_in_inference_mode_serves_training():
    with torch.inference_mode():
        found = block_mask(77, DEVICE, None, None)
    assert not found.kv_indices.is_inference()


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
        found = attention_flex(**inputs, documents=documents_of(150, seed))
        assert relative_distance(found, attention(**inputs, documents=documents_of(150, seed))) < 1e-5
    assert compilations.frame_count == 1


def test_more_kinds_of_masks_and_sizes_than_pytorch_compiles_by_itself_are_compiled(compilations):
    lengths = range(130, 130 + torch._dynamo.config.recompile_limit + 1)
    for length in lengths:
        attention_flex(**draw(length, heads=1, num_kv_heads=1))
    assert compilations.frame_count == len(lengths)


@pytest.mark.parametrize(("packed", "window"), [(False, None), (True, 7)])
def test_it_is_part_of_the_graph_of_a_compiled_model(packed, window):
    inputs, index = draw(140), documents_of(140).index

    def block(query, key, value, index):
        return attention_flex(query, key, value, Documents(index) if packed else None, window)

    found = torch.compile(block, fullgraph=True, backend="aot_eager")(*inputs.values(), index)
    expected = attention(**inputs, documents=Documents(index) if packed else None, window=window)
    assert relative_distance(found, expected) < 1e-5


@pytest.mark.parametrize(
    ("kind", "dtype", "width", "reason"),
    [
        ("cpu", torch.float32, 64, "no backward pass on CPUs"),
        ("mps", torch.float32, 64, "not on mps"),
        ("cuda", torch.float64, 64, "not torch.float64"),
        ("cuda", torch.bfloat16, 8, "at least 16, not 8"),
        ("cuda", torch.bfloat16, 96, None),
    ],
)
def test_it_says_why_it_cannot_run(kind, dtype, width, reason):
    found = why_not(torch.device(kind), dtype, StepShapes(2, 33, 64, 4, 2, width, 96, 300))
    assert (found is None) if reason is None else (reason in found)
