"""When a linear layer leaves fp8 and when it comes back, from the shares of values that its casts lose.

Plain Python on plain numbers: ranks that are shown the same shares decide alike, and what was decided can be computed
again from them. Nothing here knows the model; `litespark.callbacks.fp8` shows it the shares and moves the layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from litespark.ops.fp8.settings import AdaptiveConfig, Recipe

# where a linear layer is computed: in fp8 by a recipe, or not in fp8
Place = Literal["delayed", "tensorwise", "bf16"]
Reason = Literal["overflow", "underflow", "return"]
# tensor -> shares of its values, 0 to 1, that saturated and that became zero
Shares = Mapping[str, tuple[float, float]]
_LOST = {"overflow": "saturates", "underflow": "becomes zero"}


@dataclass(frozen=True)
class Move:
    """A linear layer that goes from one place to another; `before` is `after` where it is only warned of."""

    step: int  # optimizer steps finished when it was decided
    linear: str  # "blocks.3.mlp.down"
    # before, after: where it was and where it is now
    before: Place
    after: Place
    reason: Reason  # what was above its bound, or that it is time to come back
    tensor: str | None  # the one that lost most against its bound; None of a return
    share: float | None  # of the values of the tensor; None of a return
    bound: float | None  # that the share is above; None of a return
    readings: int  # how many in a row were above a bound, or how many it was away

    def described(self) -> str:
        """The move in one line."""
        times = f"{self.readings} {'reading' if self.readings == 1 else 'readings in a row'}"
        if self.reason == "return":
            return f"step {self.step}: {self.linear} comes back from {self.before} to {self.after}, after {times}"
        assert self.share is not None
        assert self.bound is not None
        why = f"{self.share:.3%} of {self.tensor} {_LOST[self.reason]}, above {self.bound:.3%} in {times}"
        if self.before == self.after:
            return f"step {self.step}: {self.linear} stays with {self.after} (precision.fp8.adaptive.fallback): {why}"
        return f"step {self.step}: {self.linear} goes from {self.before} to {self.after}: {why}"


@dataclass
class _Layer:
    """What is kept of one linear layer."""

    place: Place  # where it is
    above: int = 0  # readings in a row that were above a bound
    moves: int = 0  # away from its recipe, or warnings; of each the next rest is twice as long
    rest: int | None = 0  # readings until it comes back, or is warned of again; None: never; 0: it does not rest
    length: int = 0  # readings that this rest takes in all


class Adaptive:
    """The places of linear layers, decided from one reading of shares after another; all begin with `recipe`.

    A layer moves to bf16 when some tensor of it was above a bound in `patience` readings in a row. It comes back to its
    recipe `return_after` readings later, and each further move doubles that, so that a layer that never heals is tried
    ever more rarely.
    """

    def __init__(self, config: AdaptiveConfig, recipe: Recipe) -> None:
        self.config = config
        self.recipe = recipe
        self._layers: dict[str, _Layer] = {}

    def place(self, linear: str) -> Place:
        """Where a layer is."""
        layer = self._layers.get(linear)
        return self.recipe if layer is None else layer.place

    def observe(self, step: int, shares: Shares) -> list[Move]:
        """Take in one reading; in the order in which layers were first seen, what moves because of it.

        `shares` are of the tensors that were counted since the last reading, named LINEAR.TENSOR. Of a layer in bf16
        there are none; its rest goes on with every reading all the same.
        """
        worst = _worst(shares, self.config)
        for linear in worst:
            self._layers.setdefault(linear, _Layer(self.recipe))
        decided = [self._decide(step, linear, layer, worst.get(linear)) for linear, layer in self._layers.items()]
        return [move for move in decided if move is not None]

    def _decide(self, step: int, linear: str, layer: _Layer, loss: _Loss | None) -> Move | None:
        warned = layer.place == self.recipe and layer.rest != 0
        if loss is not None and layer.place != "bf16" and not warned:
            layer.above = layer.above + 1 if loss.excess[0] else 0
            if layer.above >= self.config.patience:
                return self._away(step, linear, layer, loss)
        if layer.rest:
            layer.rest -= 1
            if layer.rest == 0:
                return self._back(step, linear, layer)
        return None

    def _away(self, step: int, linear: str, layer: _Layer, loss: _Loss) -> Move:
        before, readings = layer.place, layer.above
        if self.config.fallback == "bf16":
            layer.place = "bf16"
        first = self.config.return_after
        layer.rest = None if first is None else first * 2**layer.moves
        layer.length = layer.rest or 0
        layer.moves += 1
        return Move(step, linear, before, layer.place, loss.reason, loss.tensor, loss.share, loss.bound, readings)

    def _back(self, step: int, linear: str, layer: _Layer) -> Move | None:
        before, layer.place, layer.above = layer.place, self.recipe, 0
        if before == self.recipe:  # it never went; now it may be warned of again
            return None
        return Move(step, linear, before, self.recipe, "return", None, None, None, layer.length)

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {
            "recipe": self.recipe,
            "layers": {linear: vars(layer).copy() for linear, layer in self._layers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave.

        Raises:
            ValueError: it is of another recipe, from which layers left and to which they come back.
        """
        if state["recipe"] != self.recipe:
            raise ValueError(
                f"the checkpoint's fp8 layers moved away from recipe {state['recipe']}: got {self.recipe} now; resume "
                f"with precision.fp8.recipe={state['recipe']}"
            )
        self._layers = {linear: _Layer(**values) for linear, values in state["layers"].items()}


@dataclass(frozen=True)
class _Loss:
    """The tensor of a layer that is furthest above its bound, or least below."""

    tensor: str
    share: float
    bound: float
    reason: Reason

    @property
    def excess(self) -> tuple[bool, float]:
        """Whether it is above, and the share in units of the bound."""
        return self.share > self.bound, self.share / self.bound if self.bound else self.share


def _worst(shares: Shares, config: AdaptiveConfig) -> dict[str, _Loss]:
    """Linear layer -> what it loses most of against the bounds."""
    found: dict[str, _Loss] = {}
    for tensor, (overflow, underflow) in shares.items():
        losses = (
            _Loss(tensor, overflow, config.overflow_bound, "overflow"),
            _Loss(tensor, underflow, config.underflow_bound, "underflow"),
        )
        for loss in losses:
            before = found.get(linear_of(tensor))
            if before is None or loss.excess > before.excess:
                found[linear_of(tensor)] = loss
    return found


def linear_of(tensor: str) -> str:
    """The layer that a tensor belongs to: "blocks.3.mlp.down" of "blocks.3.mlp.down.input"."""
    return tensor.rpartition(".")[0]


def block_of(tensor: str) -> str:
    """The block that a tensor belongs to: "blocks.3" of "blocks.3.mlp.down.input"."""
    return ".".join(tensor.split(".")[:2])


def worst_by_block(shares: Shares) -> dict[str, tuple[float, float]]:
    """Block -> the highest share of each kind over its tensors, in the order of the blocks in `shares`."""
    found: dict[str, tuple[float, float]] = {}
    for tensor, (overflow, underflow) in shares.items():
        highest = found.get(block_of(tensor), (0.0, 0.0))
        found[block_of(tensor)] = (max(highest[0], overflow), max(highest[1], underflow))
    return found


def recipe_at(place: Place) -> Recipe | None:
    """The recipe of a place; None: bf16."""
    return None if place == "bf16" else place


def counted_between(first: int, last: int, every: int) -> bool:
    """Whether one of the steps first, …, last - 1 counted what its casts lose, with each `every`-th doing so."""
    return -(-first // every) * every < last


def share_in_fp8(places: Iterable[Place]) -> float:
    """The share of places that are in fp8; there must be one."""
    places = list(places)
    return sum(place != "bf16" for place in places) / len(places)
