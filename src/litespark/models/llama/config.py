"""The native Llama as a `ModelSpec`: its sizes, checked when it is made, and what follows from them."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from litespark.config.settings import FIXED, Switch, settings
from litespark.models.llama.fp8 import enable_fp8
from litespark.models.spec import RECOMPUTE_MODES, Recompute
from litespark.ops.backend import Ops
from litespark.ops.rope.reference import RopeScaling
from litespark.ops.shapes import StepShapes
from litespark.ranges import Count, CountFromZero, Epsilon, Range


@settings("model", resume=FIXED)
class LlamaConfig:
    """A Llama's sizes and constants; the `ModelSpec` of the native family."""

    recompute_modes: ClassVar[tuple[Recompute, ...]] = RECOMPUTE_MODES
    enable_fp8 = staticmethod(enable_fp8)

    name: str
    """What reports call it."""
    hidden_size: Count
    """D, size of the residual stream."""
    # each is built, if only on meta
    num_layers: Annotated[int, Range(at_least=1, at_most=10_000)]
    """L, the number of blocks."""
    num_heads: Count
    """H, query heads."""
    num_kv_heads: Count
    """K, key/value heads, a divisor of H."""
    intermediate_size: Count
    """F, size inside the MLP."""
    vocab_size: Count
    """V, rows of the embedding."""
    max_seq_len: Count
    """Tokens of the longest sequence that it accepts."""
    head_dim: Annotated[int, Range(at_least=1, or_none=True)] = None  # type: ignore[assignment]
    """Dh, even; null: D/H, which is filled in so that readers always find a number."""
    # below 1 the frequencies would rise
    rope_theta: Annotated[float, Range(at_least=1, at_most=1e15)] = 10000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """How they are stretched, as by Llama 3.1; null: not at all."""
    norm_eps: Epsilon = 1e-5
    """Added to the mean square in RMSNorm."""
    tie_embeddings: Switch = False
    """Whether the head shares the embedding's weight."""
    num_labels: Count | None = None
    """Rows of the head where it is no head of the vocabulary: 1 of a reward model, which task=reward sets."""
    attention_bias: Switch = False
    """Whether query, key, value and output projections have biases, as some Hugging Face folders do."""
    mlp_bias: Switch = False
    """Whether gate, up and down projections have biases."""
    init_std: Annotated[float, Range(above=0, at_most=1)] = 0.02
    """Standard deviation of the initial weights; biases begin at 0."""
    eos_ids: tuple[CountFromZero, ...] = ()
    """Ids that end a generated text beside the tokenizer's EOS, as a Hugging Face folder with several states them."""

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"model.num_heads {self.num_heads} is not a multiple of model.num_kv_heads {self.num_kv_heads}; each "
                "key/value head serves the same number of query heads, so choose a divisor"
            )
        if self.head_dim is None:
            if self.hidden_size % self.num_heads:
                raise ValueError(
                    f"model.hidden_size {self.hidden_size} is not a multiple of model.num_heads {self.num_heads}; "
                    "change one of them or set model.head_dim"
                )
            # the way around a frozen dataclass
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_heads)
        if self.head_dim % 2:
            raise ValueError(f"model.head_dim is {self.head_dim}; rotary embedding turns pairs, so it must be even")
        if self.rope_scaling is not None:
            self._check_scaling(self.rope_scaling)

    def _check_scaling(self, scaling: RopeScaling) -> None:
        original = scaling.original_max_seq_len
        if scaling.kind == "dynamic" and original is not None and self.max_seq_len > original:
            raise ValueError(
                f"model.max_seq_len is {self.max_seq_len} with dynamic rotary scaling, which beyond its "
                f"original_max_seq_len {original} has other angles for each length; set model.max_seq_len={original}, "
                "or choose another kind of model.rope_scaling"
            )
        if scaling.kind == "yarn" and self.rope_theta == 1:
            raise ValueError(
                "model.rope_theta is 1 with YaRN, which has no such angles; set a larger one, such as 10000"
            )

    def build(self, ops: Ops, recompute: Recompute = "none") -> nn.Module:
        """See `ModelSpec`."""
        from litespark.models.llama.model import Llama  # the model is made of this config

        return Llama(self, ops, recompute)

    @staticmethod
    def huggingface() -> Any:
        """See `HasHuggingFace`."""
        from litespark.models.llama import huggingface  # reads and makes this class

        return huggingface

    def draw(self, name: str, values: Tensor, generator: torch.Generator) -> None:
        """See `ModelSpec`: normal matrices, ones for the weights of norms, zeros for biases.

        The two matrices that write into the residual stream have their deviation divided by sqrt(2L), so that the
        stream does not grow with depth (Radford et al., GPT-2, 2019).
        """
        if values.ndim == 1:
            values.fill_(0.0 if name.endswith(".bias") else 1.0)
            return
        into_stream = name.endswith(("attention.output.weight", "mlp.down.weight"))
        divisor = math.sqrt(2 * self.num_layers) if into_stream else 1.0
        values.normal_(0.0, self.init_std / divisor, generator=generator)

    def units(self, model: nn.Module) -> Sequence[nn.Module]:
        """See `ModelSpec`: the blocks."""
        blocks: Any = model.blocks
        return list(blocks)

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(N, K) of the weight of each linear layer of a block: N values for each token from K."""
        assert self.head_dim is not None
        attention, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "qkv": (attention + 2 * keys, self.hidden_size),
            "output": (self.hidden_size, attention),
            "gate_up": (2 * self.intermediate_size, self.hidden_size),
            "down": (self.hidden_size, self.intermediate_size),
        }

    def why_not_parallel(self, size: int, shards: int = 1) -> str | None:
        """See `TakesTensorParallel`."""
        from litespark.models.llama import parallel  # as all of these: of the model, which is made of this config

        return parallel.why_not_parallel(self, size, shards)

    def parallelise(self, model: Any, mesh: DeviceMesh) -> None:
        """See `TakesTensorParallel`."""
        from litespark.models.llama import parallel

        parallel.parallelise(model, mesh)

    def linear_layers(self, model: Any) -> dict[str, str]:
        """See `TakesAdapters`."""
        from litespark.models.llama.adapters import linear_layers

        return linear_layers(model)

    @property
    def head_rows(self) -> int:
        return self.num_labels or self.vocab_size

    @property
    def ties_head(self) -> bool:
        """Whether the head is the embedding: one of labels never is."""
        return self.tie_embeddings and self.num_labels is None

    def block_matmul_parameters(self) -> int:
        """Parameters of one block's matrices: QKV, output, gate, up and down."""
        return sum(outputs * inputs for outputs, inputs in self.linear_shapes().values())

    def block_biases(self) -> int:
        """Parameters of one block's biases, one for each row of a matrix that has them."""
        biased = {"qkv", "output"} if self.attention_bias else set()
        biased |= {"gate_up", "down"} if self.mlp_bias else set()
        return sum(outputs for name, (outputs, _) in self.linear_shapes().items() if name in biased)

    def matmul_parameter_count(self) -> int:
        """See `ModelSpec`."""
        return self.num_layers * self.block_matmul_parameters() + self.head_rows * self.hidden_size

    def parameter_count(self) -> int:
        """See `ModelSpec`."""
        norms = (2 * self.num_layers + 1) * self.hidden_size
        embedding = 0 if self.ties_head else self.vocab_size * self.hidden_size
        return self.matmul_parameter_count() + embedding + norms + self.num_layers * self.block_biases()

    def attention_flops(self, mean_keys: float) -> float:
        """12 · L · H · Dh · mean_keys: two products forward, four backward."""
        return 12 * self.num_layers * self.num_heads * self.head_dim * mean_keys

    def recomputed_flops(self, mean_keys: float, recompute: Recompute) -> float:
        """See `ModelSpec`. "swiglu" makes no matrix product again.

        "full" makes each block's forward without its last product: PyTorch stops the second forward once it has made
        every activation that the backward pass reads, and the output of `down` is not among them.
        """
        if recompute != "full":
            return 0.0
        again = self.block_matmul_parameters() - self.hidden_size * self.intermediate_size
        return self.num_layers * (2 * again + 4 * self.num_heads * self.head_dim * mean_keys)

    def step_shapes(self, sequences: int, length: int, documents: bool) -> StepShapes:
        """See `ModelSpec`."""
        return StepShapes(
            sequences, length, self.hidden_size, self.num_heads, self.num_kv_heads, self.head_dim,
            self.intermediate_size, self.vocab_size, documents,
        )  # fmt: skip
