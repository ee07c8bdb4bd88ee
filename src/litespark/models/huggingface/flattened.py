"""Documents from the keyword arguments of FlashAttention, as collators that flatten a batch hand them to a model.

B batch, S sequence length, N documents.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from litespark.ops.attention.documents import Documents


def documents_of(
    arguments: Mapping[str, Any], sequences: int, length: int, keys: int, others: Documents | None, device: torch.device
) -> Documents | None:
    """What `cu_seq_lens_q` and `cu_seq_lens_k` (N+1,) leave of `others`, made once a forward; without them `others`.

    Both are 0, then where each document ends in the B·S tokens. Compiled code takes their word, and nothing else's.

    Raises:
        ValueError: there is one of them alone, or they fit neither each other nor the sequences.
    """
    query, key = arguments.get("cu_seq_lens_q"), arguments.get("cu_seq_lens_k")
    if query is None and key is None:
        return others
    if not isinstance(query, Tensor) or not isinstance(key, Tensor):
        raise ValueError(
            f"got cu_seq_lens_q {query} and cu_seq_lens_k {key}, expected two tensors, or neither: pass both, as "
            "DataCollatorWithFlattening(return_flash_attn_kwargs=True) makes them"
        )
    if torch.compiler.is_compiling():
        ends = query.to(device, torch.int32)
        return Documents(_index(ends, sequences, length), ends)
    versions = [0 if x.is_inference() else x._version for x in (query, key)]
    state = (*versions, id(key), sequences, length, keys, device)
    kept: dict[int, Any] = vars(query).setdefault("litespark", {})
    if kept.get(id(others), (None,))[0] != state:
        # with what the ids are of, which nothing else can be at the same place then
        kept[id(others)] = state, _checked(query, key, sequences, length, keys, others, device), others, key
    return kept[id(others)][1]


def with_positions(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a causal LM; where documents are told by their lengths, without a cache unless one is asked for.

    And with positions that begin anew with each document, if there are none: these tell documents apart to an
    attention that reads no lengths.
    """
    if arguments.get("cu_seq_lens_q") is None:
        return arguments
    arguments = {**arguments, "use_cache": arguments.get("use_cache") or False}
    inputs = next((x for name in ("input_ids", "inputs_embeds") if (x := arguments.get(name)) is not None), None)
    if inputs is not None and arguments.get("position_ids") is None:
        sequences, length = inputs.shape[:2]
        documents = documents_of(arguments, sequences, length, length, None, inputs.device)
        assert documents is not None
        arguments["position_ids"] = torch.arange(length, device=inputs.device) - documents.first_keys()
    return arguments


def _checked(
    query: Tensor, key: Tensor, sequences: int, length: int, keys: int, others: Documents | None, device: torch.device
) -> Documents:
    ends, total = query.to(device, torch.int32), sequences * length
    begins = torch.arange(0, total + 1, length, dtype=torch.int32, device=device)
    fits = query.ndim == 1 and query.shape == key.shape and keys == length and query.numel() > 1
    if fits:
        index = _index(ends, sequences, length)
        opens = index.diff(dim=1) != 0
        both = opens if others is None else opens | (others.index.diff(dim=1) != 0)
        orderly = (ends.diff() >= 0).all() & (ends[0] == 0) & (ends[-1] == total) & torch.isin(begins, ends).all()
        # one look at the device
        orderly, same = torch.stack([orderly & (ends == key.to(ends)).all(), (both == opens).all()]).tolist()
        if orderly:
            return Documents(index, ends) if same else Documents(torch.nn.functional.pad(both, (1, 0)).cumsum(1))
    got = [f"{x.tolist()[:9]}{', …' * (x.shape[:1].numel() > 9)} {tuple(x.shape)}" for x in (query, key)]
    raise ValueError(
        f"got cu_seq_lens_q {got[0]} and cu_seq_lens_k {got[1]} for {sequences} x {length} tokens and {keys} keys; "
        f"expected both alike, from 0 to {total} without a fall, each sequence at a number of its own, and no cache: "
        "make them of this batch, or leave them out"
    )


def _index(ends: Tensor, sequences: int, length: int) -> Tensor:
    """(B, S): the document of each token."""
    tokens = torch.arange(sequences * length, dtype=ends.dtype, device=ends.device)
    return torch.searchsorted(ends[1:].contiguous(), tokens, right=True).view(sequences, length)
