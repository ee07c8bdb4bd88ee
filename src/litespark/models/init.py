"""Initial weights: a pure function of seed and parameter name, whatever the device and however it is sharded."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from litespark.models.adapters.initial import base_name, draw
from litespark.models.parallel_layers import Part, parts_of
from litespark.models.spec import ModelSpec


def initialise(model: nn.Module, spec: ModelSpec, seed: int) -> None:
    """Draw all weights, plain or DTensor, as `spec` describes them, in place.

    Every parameter has its own generator, and is drawn whole on the CPU: the values depend on nothing but the seed and
    the parameter's name and shape. Of a sharded one, ranks take turns to draw and send the others their shards.
    """
    with torch.no_grad():
        for parameter, turn, values in _drawn(model, spec, seed):
            assign(parameter, values, turn)


def _drawn(model: nn.Module, spec: ModelSpec, seed: int) -> Iterator[tuple[nn.Parameter, int | None, Tensor]]:
    """Each parameter, the coordinate in its mesh whose turn it is (None: drawn by every rank), and its initial values
    on the CPU, not written where it is another's turn. As many are drawn ahead as there are threads."""
    threads = torch.get_num_threads()
    waiting: deque[tuple[nn.Parameter, int | None, Future[Tensor]]] = deque()
    parts = parts_of(model)
    with ThreadPoolExecutor(threads) as pool:
        for index, (name, parameter) in enumerate(model.named_parameters()):
            turn = None
            if isinstance(parameter, DTensor):
                mesh = parameter.device_mesh
                turn = index % min(mesh.shape)
            if turn is None or mesh.get_local_rank(0) == turn:
                values = pool.submit(_values, spec, seed, name, parameter.shape, parts.get(name))
            else:
                values = pool.submit(torch.empty, parameter.shape, dtype=torch.float32, device="cpu")
            waiting.append((parameter, turn, values))
            if len(waiting) > threads:  # not all at once: they would take as much memory as the model
                first, its_turn, values = waiting.popleft()
                yield first, its_turn, values.result()
        for first, its_turn, values in waiting:
            yield first, its_turn, values.result()


def _values(spec: ModelSpec, seed: int, name: str, shape: torch.Size, part: Part | None) -> Tensor:
    if part is not None:
        whole = _values(spec, seed, part.whole, torch.Size((part.of_rows, *shape[1:])), None)
        return whole[part.first : part.first + part.rows]
    values = torch.empty(shape, dtype=torch.float32, device="cpu")
    # PyTorch draws with one thread, without Python's lock; a base has the same values with and without an adapter
    draw(spec, name, values, _generator(seed, base_name(name) or name))
    return values


def fill_weights(model: nn.Module, give: Callable[[str, Tensor, Part | None], None], *, head: bool = True) -> None:
    """Call `give` with the name of each parameter of `model`, and the parameter, to fill what this rank holds of it:
    for a part of a weight with the name of that, and which part it is. Not for parameters of an adapter, nor, without
    `head`, for the `head_weight`."""
    kept, parts = None if head else cast("Tensor", model.head_weight), parts_of(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter is not kept and (of_base := base_name(name)) is not None:
                part = parts.get(name)
                give(of_base if part is None else part.whole, parameter, part)


def copy_weights(source: nn.Module, model: nn.Module, *, head: bool = True) -> None:
    """Fill `model` with the weights of `source`, whole on every rank; each rank takes its shard, dtype and device."""

    def give(name: str, parameter: Tensor, part: Part | None) -> None:
        whole = source.get_parameter(name).detach()
        assign(parameter, whole if part is None else whole[part.first : part.first + part.rows])

    fill_weights(model, give, head=head)


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    # 63 bits: manual_seed takes a signed 64-bit integer
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def assign(parameter: Tensor, values: Tensor, sender: int | None = None) -> None:
    """Fill a parameter with `values`, which are whole; each rank takes its shard, dtype and device.

    With a `sender`, only the ranks at that coordinate of the first dimension of its mesh have them; a collective.
    """
    if isinstance(parameter, DTensor):
        local = parameter.to_local()
        values = values.to(dtype=local.dtype, device=local.device)
        # src_data_rank=None: each rank cuts its own shard, nothing is sent
        shard = distribute_tensor(values, parameter.device_mesh, parameter.placements, src_data_rank=sender)
        local.copy_(shard.to_local())
    else:
        parameter.copy_(values)
