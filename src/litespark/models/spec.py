"""What training asks of a model, whichever it is."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from litespark.models.cache import Cache
from litespark.ops.backend import Ops
from litespark.ops.fp8.reference import Pieces
from litespark.ops.fp8.settings import Fp8Config
from litespark.ops.shapes import StepShapes

# what the backward pass makes again: nothing, the product of gate and up in the MLP, or all of a block but its input
Recompute = Literal["none", "swiglu", "full"]
RECOMPUTE_MODES: tuple[Recompute, ...] = get_args(Recompute)
# what a model on meta raises that asks for values, where there are none, or that takes no such mask
FAILS_WITHOUT_VALUES = (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError, LookupError)


def idle_ops(recompute: Recompute, *, fp8: bool = False) -> frozenset[str]:
    """The ops that a model does not call: of the two ways through the MLP it takes one, and few models are in fp8."""
    idle = {"swiglu"} if recompute == "swiglu" else {"swiglu_linear"}
    return frozenset(idle if fp8 else idle | {"fp8"})


def with_layers(model: "ModelSpec", layers: int) -> "ModelSpec":
    """The same model of so many layers: those that it begins with."""
    own = getattr(model, "with_layers", None)
    return dataclasses.replace(model, num_layers=layers) if own is None else own(layers)


@runtime_checkable
class ModelSpec(Protocol):
    """A frozen dataclass that a config makes: the sizes of a model, and how training takes it apart.

    `name` is what reports call it, `max_seq_len` its longest sequence in tokens, and `recompute_modes` are, of "none",
    "swiglu" and "full", those that `build` takes.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def max_seq_len(self) -> int: ...
    @property
    def recompute_modes(self) -> tuple[Recompute, ...]: ...

    def build(self, ops: Ops, recompute: Recompute) -> nn.Module:
        """The model; called under the meta device, so it must not compute with values.

        A model for `task=pretrain` is called as `model(tokens, labels, positions=, documents=, cu_seqlens=,
        reduction=)`, see `models.llama.model.Llama.forward`; one for a task of your own, as that task calls it. The
        loss is made inside `forward`, where FSDP2 has gathered the weights.
        """
        ...

    def draw(self, name: str, values: Tensor, generator: torch.Generator) -> None:
        """Fill `values`, on the CPU in fp32, with the initial values of the parameter `name`."""
        ...

    def units(self, model: nn.Module) -> Sequence[nn.Module]:
        """The parts of a built model that are sharded and compiled one by one: its layers."""
        ...

    def parameter_count(self) -> int:
        """All trained parameters; shared ones once."""
        ...

    def matmul_parameter_count(self) -> int:
        """Parameters that each token is multiplied with, a tied head's included."""
        ...

    def attention_flops(self, mean_keys: float) -> float:
        """Operations a token, forward and backward, beside those of its parameters; see `planning.flops`."""
        ...

    def recomputed_flops(self, mean_keys: float, recompute: Recompute) -> float:
        """Operations a token that recomputation runs a second time."""
        ...

    def step_shapes(self, sequences: int, length: int, documents: bool) -> StepShapes | None:
        """The sizes that our ops meet in a micro-batch; None: it computes without them."""
        ...


@runtime_checkable
class HasMatrices(Protocol):
    """A layer of which Muon optimizes the matrices; without any, it is AdamW for all of a model."""

    def matrices(self) -> dict[Tensor, tuple[int, ...]]:
        """Its matrices, and for each the rows of the parts that are stored in it above each other."""
        ...


@runtime_checkable
class HasResidual(Protocol):
    """A model whose residual stream has a dtype of its own, set before the first step; None: that of the embedding."""

    residual_dtype: torch.dtype | None


@runtime_checkable
class HasIdleOps(Protocol):
    """A family whose layers do not come to run with some ops, which are then neither chosen nor verified."""

    idle_ops: frozenset[str]


def ops_without_a_layer(model: ModelSpec) -> frozenset[str]:
    """The ops that no layer of a family comes to run with."""
    return model.idle_ops if isinstance(model, HasIdleOps) else frozenset()


@runtime_checkable
class TakesFp8(ModelSpec, Protocol):
    """A family of which the layers can multiply in fp8."""

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(N, K) of the weight of each linear layer of a block, by the names of `Fp8Config.linears`."""
        ...

    def enable_fp8(self, model: nn.Module, config: Fp8Config, pieces: Pieces) -> object:
        """Let the layers of a built `model` multiply in fp8; its `fp8` is an `Fp8State` from then on."""
        ...


@runtime_checkable
class TakesTensorParallel(ModelSpec, Protocol):
    """A family whose matrices several ranks can compute in parts, see `models.parallel_layers`."""

    def why_not_parallel(self, size: int, shards: int = 1) -> str | None:
        """What of its sizes stands against `size` ranks, each with one of `shards` of its part; None: nothing."""
        ...

    def parallelise(self, model: nn.Module, mesh: DeviceMesh) -> None:
        """Cut a built `model` over the ranks of a mesh of one dimension, in place."""
        ...


@runtime_checkable
class TakesAdapters(ModelSpec, Protocol):
    """A family whose linear layers an adapter can be put on, see `models.adapters`."""

    def linear_layers(self, model: nn.Module) -> dict[str, str]:
        """The linear layers of the decoder layers of a built `model`: name in transformers -> place in it.

        It is changed, if need be, so that each can be replaced by itself.
        """
        ...


@runtime_checkable
class HasHuggingFace(Protocol):
    """A family that transformers has too.

    `huggingface()` has `read_config`, `load_huggingface` and `export_huggingface`, as `models.llama.huggingface`, and
    `fill_huggingface` where a rank can read its part of a folder alone.
    """

    @staticmethod
    def huggingface() -> Any: ...


@runtime_checkable
class Generates(Protocol):
    """A model that continues sequences: `model(tokens, cache=cache)` gives logits, (B, S or 1, V)."""

    @property
    def config(self) -> ModelSpec: ...

    def new_cache(self, capacity: int) -> Cache | None:
        """What the model keeps of the tokens it has read, `capacity` of each sequence at most; None: nothing."""
        ...

    def __call__(self, tokens: Tensor, *, cache: Any) -> Any: ...
