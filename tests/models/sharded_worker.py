"""One of two processes of test_sharded.py: build sharded from meta, initialise, train a step, export, write what came.

Usage: torchrun --nproc-per-node 2 sharded_worker.py FOLDER
"""

import sys
from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from litespark.models.init import copy_weights, initialise
from litespark.models.llama.huggingface import export_huggingface
from litespark.models.llama.model import Llama
from litespark.ops.backend import resolve
from tests.models.small import SDPA, random_ids, small_config, small_model


def _sharded(policy: MixedPrecisionPolicy) -> Llama:
    with torch.device("meta"):
        model = Llama(small_config(), resolve(SDPA))
    for block in model.blocks:
        fully_shard(block, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    model.to_empty(device="cpu")
    initialise(model, model.config, 5)
    return model


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def main(folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    model = _sharded(MixedPrecisionPolicy())
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    weights = {name: _whole(parameter.detach()) for name, parameter in model.named_parameters()}
    loss = model(random_ids(2, 16), random_ids(2, 16, seed=1))
    loss.backward()
    gradients = {name: _whole(parameter.grad) for name, parameter in model.named_parameters()}
    export_huggingface(model, folder / "exported", max_shard_bytes=20_000)

    other = small_model(seed=6)
    copy_weights(other, model)
    for name, parameter in model.named_parameters():
        assert torch.equal(_whole(parameter.detach()), other.get_parameter(name)), name

    # the other way to cut a matrix, of which FSDP is no example
    mesh = init_device_mesh("cpu", (2,))
    columns = Llama(small_config(), resolve(SDPA))
    columns.embedding.weight = torch.nn.Parameter(
        distribute_tensor(columns.embedding.weight.detach(), mesh, [Shard(1)], src_data_rank=None)
    )
    initialise(columns, columns.config, 5)
    by_columns = _whole(columns.embedding.weight.detach())

    mixed = _sharded(MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    tables = []
    mixed.blocks[0].register_forward_hook(lambda _, arguments, __: tables.append(arguments[2].cos))
    mixed_loss = mixed(random_ids(2, 16), random_ids(2, 16, seed=1))
    if torch.distributed.get_rank() == 0:
        found = {
            "weights": weights,
            "gradients": gradients,
            "loss": loss.detach(),
            "by columns": by_columns,
            "mixed loss": mixed_loss.detach(),
            "mixed cos": tables[0],
        }
        torch.save(found, folder / "found.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
