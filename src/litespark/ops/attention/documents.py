"""Where documents lie in a sequence of packed text, in the forms that attention backends need."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
_BLOCKS = (128, 64, 32)  # of attention kernels


class Documents:
    """The document of each token. Made once a forward, so that what is derived from it is shared by all layers.

    Documents are runs: a number that comes back after another one opens a new document.
    """

    def __init__(self, index: Tensor, cu_seqlens: Tensor | None = None, branches: Tensor | None = None) -> None:
        """Args:
        index: (B, S) integers, equal for neighbours exactly when they are in the same document.
        cu_seqlens: what `cu_seqlens()` would derive from `index`, made on the host with the batch; it may repeat
            its last value, for empty documents at the end. Values are not checked: that would wait for the device.
        branches: (B, S) integers: a token sees those of its document that have its number, and those that have 0.
        """
        if cu_seqlens is not None and (
            cu_seqlens.ndim != 1 or cu_seqlens.shape[0] < 2 or cu_seqlens.dtype != torch.int32
        ):
            raise ValueError(
                f"cu_seqlens of documents are {tuple(cu_seqlens.shape)} {cu_seqlens.dtype}; expected (N+1,) int32"
            )
        self.index = index
        self.branches = branches
        self._cu_seqlens = cu_seqlens
        self._derived: dict[str, Any] = {}

    def visible(self) -> Tensor:
        """(B, 1, S, S) bool: may the query (third dimension) see the key (last)? Same document, and not later, and of
        its branch or of none."""

        def make() -> Tensor:
            first, length = self.first_keys(), self.index.shape[1]
            same = first[:, None, :, None] == first[:, None, None, :]
            visible = same & causal_visible(length, length, self.index.device)
            if self.branches is None:
                return visible
            of_query, of_key = self.branches[:, None, :, None], self.branches[:, None, None, :]
            return visible & ((of_key == 0) | (of_key == of_query))

        return self.once("visible", make)

    def first_keys(self) -> Tensor:
        """(B, S) int32, non-decreasing: the first position of the document that each position is in."""

        def make() -> Tensor:
            return torch.where(self._opens(), self._positions(), 0).cummax(dim=1).values.to(torch.int32)

        return self.once("first_keys", make)

    def last_queries(self) -> Tensor:
        """(B, S) int32, non-decreasing: the last position of the document that each position is in."""

        def make() -> Tensor:
            closes = torch.ones_like(self.index, dtype=torch.bool)
            closes[:, :-1] = self._opens()[:, 1:]
            ends = torch.where(closes, self._positions(), self.index.shape[1])
            return ends.flip(1).cummin(dim=1).values.flip(1).to(torch.int32)

        return self.once("last_queries", make)

    def cu_seqlens(self) -> Tensor:
        """(N+1,) int32: 0, then where each of N documents ends in the B·S flattened tokens.

        The end of a sequence ends one. Where they were not given they are counted on the device, which the host waits
        for; compiled code cannot.
        """
        if self._cu_seqlens is not None:
            return self._cu_seqlens
        if torch.compiler.is_compiling():
            raise ValueError(
                "compiled attention needs `cu_seqlens` on the host; got none: pass them to the model "
                "beside `documents`, as a TokenBatch has them"
            )

        def make() -> Tensor:
            starts = self._opens().flatten().nonzero().squeeze(1)
            return torch.cat([starts, starts.new_full((1,), self.index.numel())]).to(torch.int32)

        return self.once("cu_seqlens", make)

    def prepare(self) -> None:
        """Make what kernels need now, so that blocks that are compiled one by one find it and do not each make it."""
        self.first_keys()
        self.last_queries()

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` returns, made for the first who asks by that name and kept."""
        if name in self._derived:
            return self._derived[name]
        made = make()
        # the compiler merges equal expressions by itself, and refuses to see an object change inside a checkpoint
        if not torch.compiler.is_compiling():
            self._derived[name] = made
        return made

    def _opens(self) -> Tensor:
        opens = torch.ones_like(self.index, dtype=torch.bool)
        opens[:, 1:] = self.index[:, 1:] != self.index[:, :-1]
        return opens

    def _positions(self) -> Tensor:
        return torch.arange(self.index.shape[1], device=self.index.device, dtype=torch.int32)


def document_index(sequences: int, length: int, device: torch.device, seed: int = 0) -> Tensor:
    """(sequences, length) int32 on `device`: documents of uneven lengths, a quarter of a sequence in the mean.

    Those of the first sequence lie in all ways in the blocks of a kernel: one of a single token, one that begins with a
    block, one that ends in it, and long ones.
    """
    generator = torch.Generator().manual_seed(seed)
    opens = torch.rand(sequences, length, generator=generator) < 1 / max(4, length // 4)
    block = next((block for block in _BLOCKS if 2 * block <= length), 1)
    long = max(length // 4, 3 * _BLOCKS[0])
    starts = torch.tensor([1, block, block + 3, *range(1 + long, length, long)])
    opens[0] = torch.isin(torch.arange(length), starts)
    opens[:, 0] = False
    return opens.cumsum(dim=1).to(torch.int32).to(device)


def causal_visible(queries: int, keys: int, device: torch.device, window: int | None = None) -> Tensor:
    """(queries, keys) bool, True where the key is not later than the query; the last query stands at the last key.

    With a `window` a query sees that many keys at most, itself included.
    """
    visible = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return visible if window is None else visible.triu(keys - queries - window + 1)


def check_attention(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents | None, window: int | None = None,
    scale: float | None = None, softcap: float | None = None,
) -> None:  # fmt: skip
    """ValueError for what no attention backend can take."""
    batch, queries, heads, _ = query.shape
    if key.shape != value.shape or heads % key.shape[2] or key.shape[0] != batch or key.shape[1] < queries:
        raise ValueError(
            f"attention: query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}; expected "
            "(B, S, H, Dh) and twice (B, T, K, Dh) with T at least S and K dividing H"
        )
    if documents is not None and documents.index.shape != (batch, key.shape[1]):
        raise ValueError(
            f"attention: documents {tuple(documents.index.shape)}, expected {(batch, key.shape[1])}, one per key"
        )
    if documents is not None and key.shape[1] != queries:
        raise ValueError("attention: documents cannot be used together with cached keys; pass documents=None")
    if documents is not None and documents.branches is not None and window is not None and window < queries:
        raise ValueError(
            f"attention: a window of {window} with branches, expected none shorter than the {queries} tokens: it "
            "counts places, which are no positions in branches; set data.share_prompts=false"
        )
    if window is not None and window < 1:
        raise ValueError(f"attention: window is {window}, expected at least 1 (a query sees itself), or None")
    for name, factor in (("scale", scale), ("softcap", softcap)):
        if factor is not None and not 0 < factor < float("inf"):
            raise ValueError(f"attention: {name} is {factor}, expected a number above 0, or None")


def refuse_branches(backend: str, documents: Documents | None) -> None:
    """ValueError where there are some, of a backend that knows documents by their ends alone."""
    if documents is not None and documents.branches is not None:
        raise ValueError(
            f"ops.attention={backend}: got documents with branches, which {backend} would let see each other; choose "
            "ops.attention=flex, sdpa or reference, or data.share_prompts=false"
        )


def refuse_softcap(backend: str, softcap: float | None) -> None:
    """ValueError where there is one, of a backend whose scores cannot be capped."""
    if softcap is not None:
        raise ValueError(
            f"ops.attention={backend}: softcap is {softcap}, and the kernels of {backend} cap no scores; choose "
            "ops.attention=flex, triton or reference"
        )
