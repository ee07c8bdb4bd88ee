"""`torch.compile` over blocks or the whole model: no graph breaks, the same results, the same names."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from litespark.models.compilation import compile_model
from litespark.models.generate import generate
from litespark.ops.attention.documents import Documents
from litespark.ops.backend import BACKENDS, REFERENCE, OpsConfig, why_not
from litespark.ops.tolerance import relative_distance
from tests.models.small import gradients, random_ids, small_model
from tests.ops.assertions import assert_close

CPU = torch.device("cpu")
# every backend that can run here, the first of all ops together, then the second, and so on; fp8 is not compiled
RUNNING = {
    op: [name for name in known if why_not(op, name, CPU, torch.float32) is None]
    for op, known in BACKENDS.items()
    if op != "fp8"
}
TOGETHER = [
    {op: names[number] for op, names in RUNNING.items() if number < len(names) and names[number] != REFERENCE}
    for number in range(max(map(len, RUNNING.values())))
]
DOCUMENTS = {
    "positions": torch.tensor([[0, 1, 2, 3, 4, 0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8]]),
    "documents": torch.tensor([[0] * 5 + [1] * 2 + [2] * 9], dtype=torch.int32),
    "cu_seqlens": torch.tensor([0, 5, 7, 16], dtype=torch.int32),
}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _step(model, **extra):
    loss = model(random_ids(1, 16), random_ids(1, 16, seed=1), **extra)
    loss.backward()
    return loss, gradients(model)


@pytest.mark.parametrize("ops", TOGETHER, ids=lambda ops: " ".join(ops.values()) or REFERENCE)
def test_a_block_is_one_graph_with_every_backend_and_the_step_is_that_of_the_references(ops):
    recompute = "swiglu" if "swiglu_linear" in ops else "none"
    plain, compiled = small_model(OpsConfig()), small_model(OpsConfig(**ops), recompute=recompute)
    # a graph break would be an error; the first block has no update to add, so there are two graphs and not more
    _assert_same_step(plain, compiled, "block", 2, **DOCUMENTS)


@pytest.mark.parametrize("extra", [{}, DOCUMENTS], ids=["one document", "packed"])
def test_the_whole_model_is_one_graph(extra):
    _assert_same_step(small_model(), small_model(), "model", 1, **extra)


def _assert_same_step(plain, compiled, mode, graphs, **extra):
    counter = CompileCounter()
    compile_model(compiled, compiled.blocks, mode, backend=counter)
    loss, expected = _step(plain, **extra)
    compiled_loss, found = _step(compiled, **extra)
    assert counter.frame_count == graphs
    assert relative_distance(compiled_loss, loss) < 1e-6
    assert_close(found, expected)


@pytest.mark.parametrize(
    ("recompute", "compiler"),
    [("swiglu", "aot_eager"), ("full", "aot_eager"), pytest.param("none", "inductor", marks=pytest.mark.slow)],
)
def test_compiled_blocks_give_the_same_below_recomputation_and_keep_the_names_of_weights(recompute, compiler):
    plain, compiled = (small_model(recompute=recompute) for _ in range(2))
    compile_model(compiled, compiled.blocks, "block", backend=compiler)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert_close(_step(compiled)[1], _step(plain)[1])


@pytest.mark.parametrize("mode", ["block", "model"])
def test_generation_compiles_nothing_and_leaves_the_model_compiled(mode):
    # with more blocks than PyTorch compiles one function anew for
    plain, compiled = (small_model(num_layers=9 if mode == "block" else 2) for _ in range(2))
    counter = CompileCounter()
    compile_model(compiled, compiled.blocks, mode, backend=counter)
    _step(compiled)
    graphs = counter.frame_count
    assert torch.equal(generate(compiled, random_ids(1, 3), 12), generate(plain, random_ids(1, 3), 12))
    _step(compiled)
    assert counter.frame_count == graphs > 0
    with torch.no_grad():  # still compiled: a step of another kind is a new graph
        compiled(random_ids(1, 16), random_ids(1, 16, seed=1))
    assert counter.frame_count > graphs


def test_validation_and_sequences_of_fewer_tokens_are_compiled_within_the_limit():
    model = small_model(OpsConfig(attention="triton", linear_cross_entropy="chunked"), num_heads=1, num_kv_heads=1)
    counter = CompileCounter()
    compile_model(model, model.blocks, "block", backend=counter)
    for training, sequences, starts in ((True, 3, [4, 9]), (True, 3, [5]), (False, 3, [2, 7, 9]), (False, 2, [6]),
                                   (False, 1, [3]), (True, 3, [1, 2, 3, 4])):  # fmt: skip
        index = torch.zeros(sequences, 16, dtype=torch.int32)
        for start in starts:
            index[:, start:] += 1
        with torch.set_grad_enabled(training):
            ids = random_ids(sequences, 16)
            model(ids, ids, documents=index, cu_seqlens=Documents(index).cu_seqlens(), reduction="none")
    assert counter.frame_count <= 8


def test_a_graph_break_inside_a_block_is_an_error():
    model = small_model()
    swiglu = model.ops.swiglu

    def breaking(gate_up):
        torch._dynamo.graph_break()
        return swiglu(gate_up)

    for block in model.blocks:
        block.mlp.ops = type(model.ops)(**{**vars(model.ops), "swiglu": breaking})
    compile_model(model, model.blocks, "block", backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported):
        model(random_ids(1, 4), random_ids(1, 4))
