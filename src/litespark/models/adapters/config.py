"""The settings of an adapter, and on which layers it is put."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from litespark.config.settings import FIXED, Switch, settings
from litespark.ranges import Count, Range


@settings("adapter", resume=FIXED)
class NoAdapter:
    """All of the model is trained."""


@settings("adapter", resume=FIXED)
class LoraAdapter:
    """LoRA (Hu et al., arXiv:2106.09685): W·x + scale · B·(A·x) with a trained A (rank, K) and B (N, rank)."""

    rank: Count = 16
    """Rows of A and columns of B."""
    alpha: Annotated[float, Range(above=0, at_most=1e6)] = 32.0
    """The scale is alpha ÷ rank."""
    rslora: Switch = False
    """The scale is alpha ÷ sqrt(rank) (Kalajdzievski, arXiv:2312.03732)."""
    dropout: Annotated[float, Range(at_least=0, at_most=0.99)] = 0.0
    """Share of the inputs of A that are set to zero in training."""
    dora: Switch = False
    """DoRA (Liu et al., arXiv:2402.09353): the length of each row of W + scale · B·A is trained by itself."""
    targets: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = ()
    """Linear layers by their names in transformers, such as q_proj; none: all of the decoder layers."""
    path: Annotated[str | None, Field(examples=["FOLDER"])] = None
    """A folder of PEFT from which A and B are taken; null: A is drawn, and B is zero."""

    @property
    def scale(self) -> float:
        return float(self.alpha / (self.rank**0.5 if self.rslora else self.rank))

    def chosen(self, layers: Iterable[str]) -> list[str]:
        """Those of `layers` that are meant; a ValueError where a target matches none."""
        layers = list(layers)
        if not self.targets:
            return layers
        matching = {target: [name for name in layers if f".{name}".endswith(f".{target}")] for target in self.targets}
        if lost := [target for target, names in matching.items() if not names]:
            known = dict.fromkeys(name.rpartition(".")[2] for name in layers)
            raise ValueError(
                f"adapter.targets: got {', '.join(lost)}, which no linear layer of the model is called; expected some "
                f"of {', '.join(known)}, or a longer end of a name such as {layers[-1]}"
            )
        wanted = {name for names in matching.values() for name in names}
        return [name for name in layers if name in wanted]

    def of_peft(self, modules: list[str], base: str | None = None) -> Any:
        """The same as the settings of `peft`, on the `modules` of these names."""
        return import_peft().LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            use_rslora=self.rslora,
            lora_dropout=self.dropout,
            use_dora=self.dora,
            target_modules=modules,
            bias="none",
            task_type="CAUSAL_LM",
            base_model_name_or_path=base,
        )


def import_peft() -> Any:
    """The library, or the ValueError that says how to get it."""
    try:
        import peft
    except ImportError as error:
        raise ValueError(
            f"adapter=lora needs peft, which cannot be imported ({error}); pip install 'litespark[lora]'"
        ) from error
    return peft
