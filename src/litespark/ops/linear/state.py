"""What linear layers in fp8 keep from step to step: their recipes, the places of their scales, their cast weights."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from litespark.mesh import Mesh
from litespark.ops.fp8.formats import E4M3
from litespark.ops.fp8.operands import MULTIPLE, Matrix, Operand, Quantisation, plain, product
from litespark.ops.fp8.reference import Pieces
from litespark.ops.fp8.scaling import Scaling
from litespark.ops.fp8.settings import Fp8Config, Recipe
from litespark.ops.shapes import StepShapes

# the tensors that a linear layer multiplies
TENSORS = ("input", "weight", "gradient")


class Fp8Linear:
    """One linear layer, y = x · weightᵀ, in fp8 by a recipe or, with None, in the dtype of the activations.

    The cast weight is kept from one optimizer step to the next: `renew_weight` after each step. It is also cast anew
    where the weight was written to, as its version shows, which fused optimizers leave as it was.

    `scaling` has the tensors "NAME.input", "NAME.weight" and "NAME.gradient"; None: the layer is never in fp8.
    """

    def __init__(
        self, name: str, weight: nn.Parameter, pieces: Pieces, scaling: Scaling | None, config: Fp8Config
    ) -> None:
        self.name = name
        self.weight = weight
        self.pieces = pieces
        self.scaling = scaling
        self.recipe: Recipe | None = None if scaling is None else config.recipe
        self.simulate = config.simulate
        self._places = {} if scaling is None else {kind: scaling.names.index(f"{name}.{kind}") for kind in TENSORS}
        self._operand: Operand | None = None
        self._cast_of: tuple[object, ...] = ()

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The parameters whose rows, one under the other, are the weight."""
        return (self.weight,)

    def apart(self, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradient of each of `weights`, from that of the weight."""
        parts = self.weights
        return (None,) * len(parts) if gradient is None else gradient.split([len(part) for part in parts])

    def quantisation(
        self, tensor: str, size: int, *, rows: bool = True, columns: bool = True, note: bool = True, count: bool = True
    ) -> Quantisation:
        """How the "input", "weight" or "gradient", of `size` values, is to be cast, see `Scaling.quantisation`."""
        if self.recipe is None:
            return Quantisation(None, rows=rows, columns=columns)
        assert self.scaling is not None
        place = self._places[tensor]
        return self.scaling.quantisation(place, self.recipe, size, rows=rows, columns=columns, note=note, count=count)

    def weight_operand(self, dtype: torch.dtype) -> Operand:
        """The weight as it is multiplied; `dtype` is that of activations, for a layer that is not in fp8."""
        if self._operand is None or self._cast_of != self._state_of_weight(dtype):
            # not counted: a run that goes on from a checkpoint comes here, one that was not interrupted does not
            self._cast_weight(dtype, count=False)
        assert self._operand is not None
        return self._operand

    def renew_weight(self) -> None:
        """After an optimizer step: cast the weight anew; one that is not in fp8 when it is next asked for."""
        if self.recipe is None:
            self._operand = None
        else:
            # into the memory of before, which a CUDA graph holds
            self._cast_weight(self.weight.dtype, count=True, into=self._operand)

    def move(self, recipe: Recipe | None) -> None:
        """Go on with another recipe, or without fp8; what is known of the tensors is forgotten."""
        assert self.scaling is not None
        self.restore(recipe)
        for place in self._places.values():
            self.scaling.forget(place)

    def restore(self, recipe: Recipe | None) -> None:
        """Go on as a checkpoint says, whose scales are loaded beside; the weight is cast anew when next asked for."""
        self.recipe = recipe
        self._operand = None

    def product(self, left: Matrix | None, right: Matrix | None, dtype: torch.dtype, *, fast: bool = False) -> Tensor:
        """See `litespark.ops.fp8.operands.product`."""
        return product(left, right, dtype, simulate=self.simulate, fast=fast)

    def _cast_weight(self, dtype: torch.dtype, *, count: bool, into: Operand | None = None) -> None:
        # also where validation runs in inference mode: training goes on with what is cast here
        with torch.inference_mode(False), torch.no_grad():
            if self.recipe is None:
                self._operand = plain(self.weight.detach().to(dtype))
            else:
                quantisation = self.quantisation("weight", sum(part.numel() for part in self.weights), count=count)
                self._operand = self._quantised(replace(quantisation, into=into))
        self._cast_of = self._state_of_weight(dtype)

    def _quantised(self, quantisation: Quantisation) -> Operand:
        return self.pieces.cast(self.weight.detach(), quantisation)

    def _state_of_weight(self, dtype: torch.dtype) -> tuple[object, ...]:
        written = [place for part in self.weights for place in (part._version, part.data_ptr())]
        return *written, dtype if self.recipe is None else None


class BlockLinears(NamedTuple):
    """The four linear layers of a block in fp8."""

    qkv: Fp8Linear
    output: Fp8Linear
    gate_up: Fp8Linear
    down: Fp8Linear

    @property
    def in_fp8(self) -> bool:
        """Whether any of them is in fp8 now."""
        return any(linear.recipe is not None for linear in self)


class Fp8State:
    """What a model in fp8 has beside its weights; `TakesFp8.enable_fp8` makes it.

    `linears`, by name, "blocks.3.mlp.down", are those that the settings put into fp8; `recipe` is None for one in bf16
    now. `blocks` has all linear layers of each block with any in fp8, by the block's number.
    """

    def __init__(self, scaling: Scaling, blocks: dict[int, BlockLinears]) -> None:
        self.scaling = scaling
        self.blocks = blocks
        self.linears = {layer.name: layer for block in blocks.values() for layer in block if layer.scaling is not None}

    def finish_step(self, mesh: Mesh) -> None:
        """After each optimizer step, taken or skipped: renew the scales, cast the weights with them; a collective."""
        self.scaling.finish_step(mesh)
        for block in self.blocks.values():
            for linear in block:
                linear.renew_weight()

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint: what resuming needs to go on bit by bit."""
        return {
            "recipes": {name: linear.recipe for name, linear in self.linears.items()},
            "scaling": self.scaling.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave, before or after the weights are loaded."""
        self.scaling.load_state_dict(state["scaling"])
        for name, linear in self.linears.items():
            linear.restore(state["recipes"][name])


def scaling_of(names: list[str], config: Fp8Config, device: torch.device) -> Scaling:
    """The scales of the tensors of the linear layers `names`, nothing known yet."""
    formats = {"input": E4M3, "weight": E4M3, "gradient": config.gradient_format}
    return Scaling(
        [f"{name}.{tensor}" for name in names for tensor in TENSORS],
        [formats[tensor] for _ in names for tensor in TENSORS],
        device,
        history=config.history,
        margin=config.margin,
        sample_every=config.adaptive.sample_every,
    )


def why_not(shapes: StepShapes) -> str | None:
    """Why fp8 units cannot multiply at these sizes, each of which some product contracts; None where they can."""
    heads, key_heads = shapes.num_heads * shapes.head_dim, shapes.num_kv_heads * shapes.head_dim
    sizes = {
        "hidden_size D": shapes.hidden_size,
        "the size of queries, keys and values (H + 2K)·Dh": heads + 2 * key_heads,
        "the size of all heads H·Dh": heads,
        "intermediate_size F": shapes.intermediate_size,
        "the tokens of a micro-batch": shapes.sequences * shapes.length,
    }
    wrong = [f"{name} is {size}" for name, size in sizes.items() if size % MULTIPLE]
    return f"{' and '.join(wrong)}, and fp8 products take multiples of {MULTIPLE}" if wrong else None
