"""One of two processes of test_sharded.py: what it asserts holds on both."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from litespark.mesh import Roles
from litespark.models import init
from litespark.models.adapters import lora
from litespark.models.adapters.config import LoraAdapter
from litespark.models.huggingface.model import CausalLM
from litespark.models.huggingface.spec import HuggingFaceConfig
from litespark.models.init import copy_weights, initialise
from litespark.models.llama.huggingface import export_huggingface, fill_huggingface
from litespark.models.llama.model import Llama
from litespark.models.safetensors_folder import SafetensorsReader
from litespark.ops.backend import OpsConfig, resolve
from litespark.ops.tolerance import relative_distance
from litespark.training.model_builder import ModelBuilder
from litespark.training.parallel.config import StrategyConfig
from litespark.training.parallel.precision import Precision, forward_context
from litespark.training.parallel.sharding import device_mesh, shard_model
from tests.models.small import BIASES, SDPA, gradients, random_ids, small_config, small_model
from tests.ops.assertions import assert_close

CPU = torch.device("cpu")


def _mesh() -> DeviceMesh:
    return device_mesh(Roles(shard=2), CPU)


def _sharded(precision: Precision, seed: int = 5) -> Llama:
    with torch.device("meta"):
        model = Llama(small_config(**BIASES), resolve(SDPA))
    shard_model(model, model.blocks, _mesh(), StrategyConfig("fsdp"), precision)
    model.to_empty(device="cpu")
    initialise(model, model.config, seed)
    return model


def _whole(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    assert all(isinstance(tensor, DTensor) for tensor in tensors.values())
    return {name: tensor.full_tensor() for name, tensor in tensors.items()}


def _assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def _any_causal_lm() -> None:
    """A model of transformers with a head that is its embedding: a shard has the values that the whole one has."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
             "head_dim": 16, "intermediate_size": 48, "vocab_size": 64, "max_position_embeddings": 32}  # fmt: skip
    spec = HuggingFaceConfig("folder", config={"model_type": "qwen3", "tie_word_embeddings": True, **sizes})

    def built(shard: bool, seed: int) -> CausalLM:
        with torch.device("meta"):
            model = spec.build(resolve(OpsConfig(rms_norm="torch", attention="sdpa")), "none")
        assert isinstance(model, CausalLM)
        if shard:
            shard_model(model, model.layers, _mesh(), StrategyConfig("fsdp"), "fp32")
        model.to_empty(device="cpu")
        initialise(model, spec, seed)
        return model.train()

    single, model, sequences = built(False, 5), built(True, 5), (random_ids(2, 16), random_ids(2, 16, seed=1))
    assert "causal_lm.lm_head.weight" not in dict(model.named_parameters())
    _assert_equal(_whole(model.state_dict()), single.state_dict())
    for each in (expected := single(*sequences), loss := model(*sequences)):
        each.backward()
    assert relative_distance(loss, expected) < 1e-6
    assert_close(_whole(gradients(model)), gradients(single))
    copy_weights(other := built(False, 6), model)
    _assert_equal(_whole(model.state_dict()), other.state_dict())


def _adapted() -> None:
    """DoRA on a model whose matrices hold several layers: what is drawn, the lengths of rows, loss and gradients."""
    spec, adapter = small_config(**BIASES), LoraAdapter(rank=3, dora=True)
    builder = ModelBuilder(spec, resolve(SDPA), 5, adapter=adapter)
    single = builder.build(torch.device("cpu"))
    model = replace(builder, strategy=StrategyConfig("fsdp")).build(CPU, _mesh())
    _assert_equal(_whole(model.state_dict()), single.state_dict())
    sequences = random_ids(2, 16), random_ids(2, 16, seed=1)
    for each in (expected := single(*sequences), loss := model(*sequences)):
        each.backward()
    assert relative_distance(loss, expected) < 1e-6
    found, wanted = ({n: p.grad for n, p in each.named_parameters() if p.requires_grad} for each in (model, single))
    assert all(".lora_" in name for name in wanted)
    assert_close(_whole(found), wanted)
    assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)
    with lora.disabled(model), torch.no_grad():
        plain = replace(builder, adapter=None).build(torch.device("cpu"))
        assert relative_distance(model(*sequences), plain(*sequences)) < 1e-6


def main(folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    sequences = random_ids(2, 16), random_ids(2, 16, seed=1)
    single = small_model(seed=5, **BIASES)
    with mock.patch.object(init, "_values", wraps=init._values) as draws:
        model = _sharded("fp32")
    # the ranks take turns
    count, rank = len(list(model.parameters())), torch.distributed.get_rank()
    assert draws.call_count == len(range(rank, count, 2))
    _assert_equal(_whole(model.state_dict()), single.state_dict())
    export_huggingface(model, folder, max_shard_bytes=20_000)
    torch.distributed.barrier()
    with mock.patch.object(SafetensorsReader, "rows", autospec=True, side_effect=SafetensorsReader.rows) as reads:
        fill_huggingface(folder, again := _sharded("fp32", seed=9))
    _assert_equal(_whole(again.state_dict()), single.state_dict())
    rows = sum(end - begin for _, _, begin, end in (call.args for call in reads.call_args_list))
    # each rank reads what it holds, half of each
    held = sum(len(parameter.to_local()) for parameter in model.parameters())
    assert rows == held <= 0.6 * sum(len(parameter) for parameter in model.parameters())

    expected, loss = single(*sequences), model(*sequences)
    for each in (expected, loss):
        each.backward()
    assert relative_distance(loss, expected) < 1e-6
    assert_close(_whole(gradients(model)), gradients(single))

    # the other way to cut a matrix, of which FSDP is no example
    columns = Llama(small_config(**BIASES), resolve(SDPA))
    mesh = init_device_mesh("cpu", (2,))
    cut = distribute_tensor(columns.embedding.weight.detach(), mesh, [Shard(1)], src_data_rank=None)
    columns.embedding.weight = torch.nn.Parameter(cut)
    initialise(columns, columns.config, 5)
    assert torch.equal(columns.embedding.weight.full_tensor(), single.embedding.weight)

    other = small_model(seed=6, **BIASES)
    copy_weights(other, model)
    _assert_equal(_whole(model.state_dict()), other.state_dict())

    # bf16 leaves the loss and the rotary tables in fp32, and the residual stream in its own dtype
    mixed = _sharded("bf16")
    dtypes = []
    mixed.blocks[1].register_forward_hook(
        lambda _, arguments, output: dtypes.append((arguments[0].dtype, output[1].dtype, arguments[2].cos.dtype))
    )
    for residual in (torch.float32, torch.bfloat16):
        mixed.residual_dtype = residual
        with forward_context("bf16", torch.device("cpu")):
            mixed_loss = mixed(*sequences)
        assert (mixed_loss.dtype, dtypes.pop()) == (torch.float32, (residual, torch.bfloat16, torch.float32))
        assert relative_distance(mixed_loss, expected) < 2e-2

    _any_causal_lm()
    _adapted()
    torch.distributed.destroy_process_group()
