"""What a checkpoint holds beside weights and optimizer states, as JSON, with its tensors put aside by name.

JSON has neither tuples, keys that are no texts, nor numbers that are not finite: objects with one key that begins with
`$` stand for them, and for the tensors.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor

_TENSOR, _TUPLE, _PAIRS, _FLOAT = "$tensor", "$tuple", "$pairs", "$float"


def encode(value: Any, at: str, tensors: dict[str, Tensor], refused: list[str]) -> Any:
    """`value` as JSON; its tensors go into `tensors` by their place below `at`, others than these into `refused`.

    Taken are tensors, numbers, texts, None, and lists, tuples and dicts of them: exactly these classes, since another
    would not be read back as it was.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {_FLOAT: repr(value)}
    if isinstance(value, Tensor):
        tensors[at] = value
        return {_TENSOR: at}
    if kind in (list, tuple):
        items = [encode(item, f"{at}.{index}", tensors, refused) for index, item in enumerate(value)]
        return items if kind is list else {_TUPLE: items}
    if kind in (dict, OrderedDict):
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: encode(item, f"{at}.{key}", tensors, refused) for key, item in value.items()}
        keys = [encode(key, at, {}, refused) for key in value]
        items = [encode(item, f"{at}.{key}", tensors, refused) for key, item in value.items()]
        return {_PAIRS: [list(pair) for pair in zip(keys, items, strict=True)]}
    refused.append(f"{kind.__module__}.{kind.__qualname__}")
    return None


def decode(value: Any, tensor: Callable[[str], Any]) -> Any:
    """What was encoded, with `tensor` of each name in the places of the tensors."""
    if isinstance(value, list):
        return [decode(item, tensor) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$tensor": str(name)}:
            return tensor(name)
        case {"$tuple": list(items)}:
            return tuple(decode(item, tensor) for item in items)
        case {"$pairs": list(pairs)}:
            return {decode(key, tensor): decode(item, tensor) for key, item in pairs}
        case {"$float": str(number)}:
            return float(number)
    return {key: decode(item, tensor) for key, item in value.items()}
