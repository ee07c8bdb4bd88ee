"""What came of `apply`: each module of a model, and what runs in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from litespark.models.huggingface.layers import Row
from litespark.models.huggingface.table import FAMILIES, Attention, Head, Layer, Mlp, Norm
from litespark.ops.backend import AUTO, REFERENCE, OpsConfig
from litespark.ops.choice import Choice

# kind of layer -> the op that takes its place, those inside of others first
OP_OF: dict[type, str] = {
    Norm: "rms_norm", Mlp: "swiglu", Attention: "rope", Layer: "add_rms_norm", Head: "linear_cross_entropy"
}  # fmt: skip


@dataclass(frozen=True)
class Module:
    """One module, and what runs in it."""

    name: str
    kind: str  # its class
    ops: dict[str, str] = field(default_factory=dict)  # op -> backend; none: the module is as it was
    reason: str = ""  # why it is, or why an op that the table has for it does not run


@dataclass(frozen=True)
class Applied:
    """What `apply` did with every module that has parameters or is in the table, and how backends were chosen."""

    modules: tuple[Module, ...]
    choices: tuple[Choice, ...]

    def __str__(self) -> str:
        """A line for each class of modules and what came of them."""
        grouped: dict[tuple[str, str], int] = {}
        for module in self.modules:
            what = " ".join(f"{op}={backend}" for op, backend in module.ops.items())
            what += f"{', ' * bool(what)}left alone: {module.reason}" * bool(module.reason)
            grouped[module.kind, what] = grouped.get((module.kind, what), 0) + 1
        return "\n".join(f"{count:4} {kind}: {what}" for (kind, what), count in grouped.items())


def outcome(
    name: str,
    module: Any,
    row: Row | None,
    reason: str | None,
    used: Mapping[str, str],
    attending: Mapping[nn.Module, str | None],
) -> Module:
    """What came of one module; `attending`: those that call attention, and why not ours."""
    ops, reasons = {}, []
    if row is not None and reason is None:
        op = OP_OF[type(row)]
        ops[op] = used[op]
    elif row is not None:
        reasons.append(f"{OP_OF[type(row)]}: {reason}")
    if module in attending:
        if attending[module] is None:
            ops["attention"] = used["attention"]
        else:
            reasons.append(f"attention: {attending[module]}")
    if not ops and not reasons:
        product = "a product of PyTorch" if type(module) is nn.Linear else "not in the table"
        reasons = ["a lookup of PyTorch" if isinstance(module, nn.Embedding) else product]
    return Module(name, type(module).__name__, ops, "; ".join(reasons))


def complain(done: list[Module], asked: OpsConfig) -> None:
    """ValueError where nothing runs, or not what was asked for by name."""
    ran = {op for module in done for op in module.ops}
    alone = "\n".join(dict.fromkeys(f"  {module.kind}: {module.reason}" for module in done if module.reason))
    named = {op: name for op, name in asked.backends().items() if name not in (AUTO, REFERENCE)}
    if missing := {op: name for op, name in named.items() if op not in ran}:
        raise ValueError(
            f"litespark.apply: got ops {missing}, which no layer of this model came to run with; ask for others. Left "
            f"alone:\n{alone}"
        )
    if not ran:
        raise ValueError(
            f"litespark.apply: got a model of which nothing could be replaced, expected one of {', '.join(FAMILIES)}. "
            f"Left alone:\n{alone}"
        )
