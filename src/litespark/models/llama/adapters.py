"""The linear layers of a native Llama as those of transformers, on which an adapter is put."""

from litespark.models.llama.huggingface import huggingface_parts
from litespark.models.llama.model import Llama
from litespark.ops.linear.kept import KeptLinear
from litespark.ops.linear.split import split


def linear_layers(model: Llama) -> dict[str, str]:
    """See `TakesAdapters`: those of blocks; the matrices that hold several are split."""
    layers = {}
    for ours, parts in huggingface_parts(model.config).items():
        place, _, kind = ours.rpartition(".")
        layer = model.get_submodule(place)
        if kind != "weight" or not isinstance(layer, KeptLinear):
            continue
        rows = {name.removesuffix(".weight"): count for name, count in parts}
        if len(rows) == 1:
            layers[next(iter(rows))] = place
            continue
        split(layer, {name.rpartition(".")[2]: count for name, count in rows.items()})
        layers |= {name: f"{place}.{name.rpartition('.')[2]}" for name in rows}
    return layers
