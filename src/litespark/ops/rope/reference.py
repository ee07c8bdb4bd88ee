"""Rotary position embedding in plain PyTorch: the specification that faster backends are tested against.

B batch, S sequence length, H query heads, K key heads, Dh head dim, Dr how many values of a head are rotated.
"""

import math
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from litespark.config.settings import FIXED, Switch, settings
from litespark.ranges import Count, Range

Stretch = Annotated[float, Range(above=0, at_most=1e6)]
# of each kind, its numbers beside the factor, with what stands for one that is null; None: nothing does
SCALING_NUMBERS: dict[str, dict[str, Any]] = {
    "llama3": dict.fromkeys(("low_frequency_factor", "high_frequency_factor", "original_max_seq_len"), None),
    "linear": {},
    "yarn": {
        "original_max_seq_len": None,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": True,
        "attention_factor": lambda factor: 0.1 * math.log(max(factor, 1)) + 1,
    },
    "dynamic": {"original_max_seq_len": None},
}


@settings("model.rope_scaling", resume=FIXED)
class RopeScaling:
    """How rotary frequencies are stretched to contexts longer than those of pre-training.

    "llama3" blends wavelengths between those that are kept and those that are stretched; "linear" stretches all; "yarn"
    blends by the turns that a dimension makes, and sharpens attention; "dynamic" stretches nothing up to
    `original_max_seq_len`, and longer sequences are refused. Null: not a number of the kind, or as its paper has it.
    """

    factor: Stretch
    """By how much long wavelengths are stretched."""
    low_frequency_factor: Stretch | None = None
    """llama3: wavelengths above original / low_frequency_factor are stretched in full."""
    high_frequency_factor: Stretch | None = None
    """llama3: wavelengths below original / high_frequency_factor are kept."""
    original_max_seq_len: Count | None = None
    """All but linear: tokens of the longest sequence of pre-training."""
    kind: Literal["llama3", "linear", "yarn", "dynamic"] = "llama3"
    """As transformers names them."""
    beta_fast: Stretch | None = None
    """yarn: dimensions that turn more often than this in the original length are kept; null: 32."""
    beta_slow: Stretch | None = None
    """yarn: dimensions that turn less often than this are stretched in full; null: 1."""
    truncate: Switch | None = None
    """yarn: whether the two bounds between dimensions are rounded to whole ones; null: true."""
    attention_factor: Stretch | None = None
    """yarn: what cos and sin are multiplied with; null: 0.1 ln(factor) + 1."""

    def __post_init__(self) -> None:
        numbers = SCALING_NUMBERS[self.kind]
        for name in dict.fromkeys(name for kind in SCALING_NUMBERS.values() for name in kind):
            value, key = getattr(self, name), f"model.rope_scaling.{name}"
            if name not in numbers:
                if value is not None:
                    raise ValueError(
                        f"{key}: got {value} with kind={self.kind}, which has no such number; set it to null"
                    )
            elif value is None:
                value = numbers[name](self.factor) if callable(numbers[name]) else numbers[name]
                if value is None:
                    raise ValueError(f"{key}: got nothing, expected a number, which kind={self.kind} has; set it")
                # the way around a frozen dataclass
                object.__setattr__(self, name, value)
        if self.kind == "llama3":
            self._check_order("low_frequency_factor", "high_frequency_factor")
        if self.kind == "yarn":
            self._check_order("beta_slow", "beta_fast")

    def _check_order(self, low: str, high: str) -> None:
        if not getattr(self, low) < getattr(self, high):
            raise ValueError(
                f"model.rope_scaling.{low}: got {getattr(self, low)}, expected a number below {high} "
                f"{getattr(self, high)}"
            )


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> Tensor:
    """(Dh/2,) fp32 on the CPU, radians per position: theta^(-2i/Dh), stretched where `scaling` is given.

    Su et al., "RoFormer", arXiv:2104.09864; llama3: "The Llama 3 Herd of Models", arXiv:2407.21783; linear: Chen et
    al., arXiv:2306.15595; yarn: Peng et al., arXiv:2309.00071. On the CPU whatever the default device, since published
    weights were trained with exactly these roundings.
    """
    powers = theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim)
    frequencies = 1.0 / powers
    if scaling is None or scaling.kind == "dynamic":
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind == "yarn":
        stretched, kept = 1.0 / (scaling.factor * powers), _kept_by_yarn(head_dim, theta, scaling)
    else:
        stretched, kept = frequencies / scaling.factor, _kept_by_llama3(frequencies, scaling)
    return (1 - kept) * stretched + kept * frequencies


def _kept_by_llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """0 where the wavelength is long (stretched), 1 where it is short (kept)."""
    low, high, original = scaling.low_frequency_factor, scaling.high_frequency_factor, scaling.original_max_seq_len
    assert low is not None
    assert high is not None
    assert original is not None
    wavelengths = 2 * math.pi / frequencies
    return ((original / wavelengths - low) / (high - low)).clamp(0, 1)


def _kept_by_yarn(head_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
    """1 for dimensions before that which turns `beta_fast` times in the original length, 0 behind `beta_slow`'s."""
    fast, slow, original = scaling.beta_fast, scaling.beta_slow, scaling.original_max_seq_len
    assert fast is not None
    assert slow is not None
    assert original is not None

    def dimension(turns: float) -> float:
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = dimension(fast), dimension(slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    # as transformers bounds them, and parts two that are one
    first, last = max(first, 0), min(last, head_dim - 1)
    last += 0.001 if first == last else 0
    places = torch.arange(head_dim // 2, dtype=torch.float32, device="cpu")
    return 1 - ((places - first) / (last - first)).clamp(0, 1)


def rope_tables(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of position (B or 1, S) · frequency (Dh/2,), made once a forward and shared by all layers."""
    # an element-wise product: autocast would turn a matrix product into bf16 and lose whole positions
    angles = positions.to(frequencies.dtype).unsqueeze(-1) * frequencies
    return angles.cos(), angles.sin()


def rope(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> tuple[Tensor, Tensor]:
    """Rotate each pair (x_i, x_{i+Dr/2}) by the angle of its position: the half-split pairing of Hugging Face weights.

    y_i = x_i cos_i - x_{i+Dr/2} sin_i and y_{i+Dr/2} = x_{i+Dr/2} cos_i + x_i sin_i; cos and sin are (B or 1, S, Dr/2).
    With `interleaved` pairs are neighbours, (x_{2i}, x_{2i+1}), as in the paper (Su et al., arXiv:2104.09864) and in
    GLM and Cohere. The values from Dr on, where Dr < Dh, pass (Black et al., "GPT-NeoX-20B", arXiv:2204.06745). Query
    (B, S, H, Dh) and key (B, S, K, Dh) come back in their dtypes; bf16 and fp16 are computed in fp32.
    """
    return _rotate(query, cos, sin, interleaved), _rotate(key, cos, sin, interleaved)


def rope_qkv(
    qkv: Tensor, cos: Tensor, sin: Tensor, num_kv_heads: int, interleaved: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Split (B, S, H + 2K, Dh) that one matrix product made into query, key and value, and rotate the first two.

    One op, so that a backend can write the gradient of `qkv` in one pass instead of rotating two and joining three.
    With `num_kv_heads` 0 all heads are rotated, and key and value have none: for queries or keys that come alone.
    """
    query, key, value = qkv.split([qkv.shape[2] - 2 * num_kv_heads, num_kv_heads, num_kv_heads], dim=2)
    return *rope(query, key, cos, sin, interleaved), value


def check_rope(qkv: Tensor, cos: Tensor, sin: Tensor, num_kv_heads: int) -> None:
    """ValueError for shapes that `rope_qkv` cannot take."""
    if qkv.ndim != 4 or not 0 <= 2 * num_kv_heads < qkv.shape[2]:
        raise ValueError(
            f"rope: qkv is {tuple(qkv.shape)} with {num_kv_heads} key/value heads; expected (B, S, H + 2K, Dh) with at "
            "least one query head"
        )
    batch, length, _, head_dim = qkv.shape
    half, most = cos.shape[-1] if cos.ndim else 0, head_dim // 2
    if cos.shape not in ((batch, length, half), (1, length, half)) or sin.shape != cos.shape or not 0 < half <= most:
        raise ValueError(
            f"rope: cos is {tuple(cos.shape)} and sin {tuple(sin.shape)}; expected both {(batch, length, most)} or "
            f"{(1, length, most)}, or fewer values in the last dimension: half of those of a head that are rotated"
        )


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if interleaved:
        turned, passed = wide.tensor_split((2 * cos.shape[-1],), dim=-1)
        first, second = turned.unflatten(-1, (-1, 2)).unbind(-1)
        pairs = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1)
        return torch.cat((pairs.flatten(-2), passed), dim=-1).to(x.dtype)
    first, second, *passed = wide.split(cos.shape[-1], dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, *passed), dim=-1).to(x.dtype)
