"""Our ops as a mapping of the library `kernels`, for the layers of transformers that are marked for it.

B batch, S sequence length, H query heads, K key heads, Dh head dim.
"""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from litespark.device import NVIDIA_AND_AMD
from litespark.models.huggingface.layers import epsilon, tables_of
from litespark.models.huggingface.table import Attention, Norm
from litespark.ops.backend import load

# what a layer of transformers is marked as -> what it is; marks of other layers have no op of ours, or another one
_MARKS: dict[str, Norm | Attention] = {
    "RMSNorm": Norm(), "RMSNormZeroCentered": Norm(offset=1.0), "rotary_pos_emb": Attention()
}  # fmt: skip
_BACKENDS = dict.fromkeys(NVIDIA_AND_AMD, "triton") | {"cpu": "cpu"}


@dataclass(frozen=True)
class OfOps:
    """What `kernels` calls a repository: `load` gives a class whose `forward` takes the place of a module's."""

    layer_name: str
    backend: str

    def load(self) -> type[nn.Module]:
        row = _MARKS[self.layer_name]
        return _norm(row, self.backend) if isinstance(row, Norm) else _rotary(row, self.backend)


def kernel_mapping() -> dict[str, dict[str, OfOps]]:
    """Mark -> type of device -> our op, for `kernels.use_kernel_mapping` or `kernels.register_kernel_mapping`.

    Raises:
        ValueError: the version of `kernels` that is there is not one for which transformers marks its layers.
    """
    from transformers import __version__
    from transformers.utils import import_utils

    if not import_utils.is_kernels_available():
        try:
            got = f"kernels {importlib.metadata.version('kernels')}"
        except importlib.metadata.PackageNotFoundError:
            got = "no kernels"
        lowest, above = (getattr(import_utils, f"KERNELS_{bound}_VERSION", "any") for bound in ("MIN", "MAX"))
        raise ValueError(
            f"litespark.kernel_mapping: got {got}, expected kernels >= {lowest} and < {above}, without which "
            f"transformers {__version__} marks no layer: install one, or use litespark.apply(model), which needs none"
        )
    return {mark: {device: OfOps(mark, name) for device, name in _BACKENDS.items()} for mark in _MARKS}


def _norm(row: Norm, backend: str) -> type[nn.Module]:
    op = load("rms_norm", backend)

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        weight = self.weight.float() + row.offset if row.offset else self.weight
        return op(hidden_states, weight, epsilon(self))

    return _layer("RMSNorm", forward)


def _rotary(row: Attention, backend: str) -> type[nn.Module]:
    op = load("rope", backend)

    def forward(self: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
        """(B, H, S, Dh) and (B, K, S, Dh), heads and positions the other way round where `unsqueeze_dim` is 2."""
        if unsqueeze_dim not in (1, 2) or cos.ndim != 3 or cos.shape[-1] != q.shape[-1]:
            raise ValueError(
                f"litespark.kernel_mapping: got tables {tuple(cos.shape)} for queries {tuple(q.shape)}, expected "
                'each angle twice, (B or 1, S, Dh); leave "rotary_pos_emb" out of the mapping'
            )
        tables = tables_of((cos, sin), row)
        if unsqueeze_dim == 2:
            return tuple(op(x, *tables, 0)[0] for x in (q, k))
        return tuple(op(x.transpose(1, 2), *tables, 0)[0].transpose(1, 2) for x in (q, k))

    return _layer("Rotary", forward)


def _layer(name: str, forward: Callable[..., Any]) -> type[nn.Module]:
    """`kernels` refuses a class with anything else in it."""
    return type(name, (nn.Module,), {"forward": forward, "can_torch_compile": True, "has_backward": True})
