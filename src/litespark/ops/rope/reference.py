"""Rotary position embedding in plain PyTorch: the specification that faster backends are tested against.

B batch, S sequence length, H query heads, K key heads, Dh head dim, Dr how many values of a head are rotated.
"""

import math

import torch
from torch import Tensor

from litespark.config.settings import FIXED, settings
from litespark.ranges import Count, Positive


@settings("model.rope_scaling", resume=FIXED)
class RopeScaling:
    """How Llama 3.1 stretches rotary frequencies to contexts longer than those of pre-training.

    Wavelengths between those that are kept and those that are stretched are blended.
    """

    factor: Positive
    """By how much long wavelengths are stretched."""
    low_frequency_factor: Positive
    """Wavelengths above original / low_frequency_factor are stretched in full."""
    high_frequency_factor: Positive
    """Wavelengths below original / high_frequency_factor are kept."""
    original_max_seq_len: Count
    """Tokens of the longest sequence of pre-training."""

    def __post_init__(self) -> None:
        if not self.low_frequency_factor < self.high_frequency_factor:
            raise ValueError(
                f"model.rope_scaling.low_frequency_factor: got {self.low_frequency_factor}, expected a number below "
                f"high_frequency_factor {self.high_frequency_factor}"
            )


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> Tensor:
    """(Dh/2,) fp32 on the CPU, radians per position: theta^(-2i/Dh), scaled as Llama 3.1 does where `scaling` is given.

    Su et al., "RoFormer", arXiv:2104.09864; scaling: "The Llama 3 Herd of Models", arXiv:2407.21783. On the CPU
    whatever the default device, since published weights were trained with exactly these roundings.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    frequencies = 1.0 / theta**exponents
    if scaling is None:
        return frequencies
    wavelengths = 2 * math.pi / frequencies
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    # 0 where the wavelength is long (stretched), 1 where it is short (kept)
    kept = ((scaling.original_max_seq_len / wavelengths - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies


def rope_tables(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of position (B or 1, S) · frequency (Dh/2,), made once a forward and shared by all layers."""
    # an element-wise product: autocast would turn a matrix product into bf16 and lose whole positions
    angles = positions.to(frequencies.dtype).unsqueeze(-1) * frequencies
    return angles.cos(), angles.sin()


def rope(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate each pair (x_i, x_{i+Dr/2}) by the angle of its position: the half-split pairing of Hugging Face weights.

    y_i = x_i cos_i - x_{i+Dr/2} sin_i and y_{i+Dr/2} = x_{i+Dr/2} cos_i + x_i sin_i; cos and sin are (B or 1, S, Dr/2).
    The values from Dr on, where Dr < Dh, pass (Black et al., "GPT-NeoX-20B", arXiv:2204.06745). Query (B, S, H, Dh) and
    key (B, S, K, Dh) come back in their dtypes; bf16 and fp16 are computed in fp32.
    """
    return _rotate(query, cos, sin), _rotate(key, cos, sin)


def rope_qkv(qkv: Tensor, cos: Tensor, sin: Tensor, num_kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split (B, S, H + 2K, Dh) that one matrix product made into query, key and value, and rotate the first two.

    One op, so that a backend can write the gradient of `qkv` in one pass instead of rotating two and joining three.
    With `num_kv_heads` 0 all heads are rotated, and key and value have none: for queries or keys that come alone.
    """
    query, key, value = qkv.split([qkv.shape[2] - 2 * num_kv_heads, num_kv_heads, num_kv_heads], dim=2)
    return *rope(query, key, cos, sin), value


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


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    first, second, *passed = wide.split(cos.shape[-1], dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, *passed), dim=-1).to(x.dtype)
