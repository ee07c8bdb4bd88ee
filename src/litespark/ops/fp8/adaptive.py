"""When a linear layer leaves fp8 and when it comes back, from the shares of values that its casts lose.

Plain Python on plain numbers: ranks that are shown the same shares decide alike. `litespark.callbacks.fp8` shows it the
shares and moves the layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from litespark.ops.fp8.settings import AdaptiveConfig, Recipe

# where a linear layer is computed: in fp8 by a recipe, or not in fp8
Place = Literal["delayed", "tensorwise", "bf16"]
Reason = Literal["overflow", "underflow", "return"]
# tensor, "blocks.3.mlp.down.input" -> shares of its values, 0 to 1, that saturated and that became zero
Shares = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Move:
    """A linear layer that goes from one place to another; `before` is `after` where it is only warned of."""

    step: int  # optimizer steps finished when it was decided
    linear: str  # "blocks.3.mlp.down"
    before: Place
    after: Place
    reason: Reason  # what was above its bound, or that it is time to come back
    readings: int  # how many in a row were above a bound, or how many it was away
    # the tensor that lost most against its bound, the share of its values and the bound; None of a return
    tensor: str | None = None
    share: float | None = None
    bound: float | None = None

    @property
    def why(self) -> str:
        """In a few words."""
        times = f"{self.readings} {'reading' if self.readings == 1 else 'readings in a row'}"
        if self.reason == "return":
            return f"its recipe is tried again, after {times}"
        lost = "saturates" if self.reason == "overflow" else "becomes zero"
        tensor = (self.tensor or "").rpartition(".")[2]
        return f"{self.share:.3%} of its {tensor} {lost}, above {self.bound:.3%} in {times}"

    def described(self) -> str:
        """The move in one line."""
        moves = f"goes from {self.before} to {self.after}"
        if self.before == self.after:
            moves = f"stays with {self.after} (precision.fp8.adaptive.fallback)"
        return f"step {self.step}: {self.linear} {moves}: {self.why}"


class _Loss(NamedTuple):
    """What a layer loses of a tensor; the first two order losses."""

    above: bool  # its bound
    excess: float  # the share in units of the bound
    reason: Reason
    tensor: str
    share: float
    bound: float


@dataclass
class _Layer:
    place: Place
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

        `shares` are of the tensors that were counted since the last reading. Of a layer in bf16 there are none; its
        rest goes on with every reading all the same.
        """
        worst = self._worst(shares)
        for linear in worst:
            self._layers.setdefault(linear, _Layer(self.recipe))
        decided = [self._decide(step, linear, layer, worst.get(linear)) for linear, layer in self._layers.items()]
        return [move for move in decided if move is not None]

    def _worst(self, shares: Shares) -> dict[str, _Loss]:
        """Linear layer -> what it loses most of against the bounds."""
        worst: dict[str, _Loss] = {}
        bounds: dict[Reason, float] = {"overflow": self.config.overflow_bound, "underflow": self.config.underflow_bound}
        for tensor, lost in shares.items():
            linear = linear_of(tensor)
            for share, (reason, bound) in zip(lost, bounds.items(), strict=True):
                loss = _Loss(share > bound, share / bound if bound else share, reason, tensor, share, bound)
                if linear not in worst or loss[:2] > worst[linear][:2]:
                    worst[linear] = loss
        return worst

    def _decide(self, step: int, linear: str, layer: _Layer, loss: _Loss | None) -> Move | None:
        if layer.rest == 0:
            if loss is None:
                return None
            layer.above = layer.above + 1 if loss.above else 0
            return self._away(step, linear, layer, loss) if layer.above >= self.config.patience else None
        if layer.rest is not None:
            layer.rest -= 1
        if layer.rest != 0:
            return None
        before, layer.place, layer.above = layer.place, self.recipe, 0
        if before == self.recipe:  # it never went; now it may be warned of again
            return None
        return Move(step, linear, before, self.recipe, "return", layer.length)

    def _away(self, step: int, linear: str, layer: _Layer, loss: _Loss) -> Move:
        before = layer.place
        if self.config.fallback == "bf16":
            layer.place = "bf16"
        first = self.config.return_after
        layer.rest = None if first is None else first * 2**layer.moves
        layer.length = layer.rest or 0
        layer.moves += 1
        return Move(step, linear, before, layer.place, loss.reason, layer.above, loss.tensor, loss.share, loss.bound)

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {"layers": {linear: vars(layer).copy() for linear, layer in self._layers.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave; `Fp8State` has checked that it is of the same recipe."""
        self._layers = {linear: _Layer(**values) for linear, values in state["layers"].items()}


def linear_of(tensor: str) -> str:
    """The layer that a tensor belongs to: "blocks.3.mlp.down" of "blocks.3.mlp.down.input"."""
    return tensor.rpartition(".")[0]
