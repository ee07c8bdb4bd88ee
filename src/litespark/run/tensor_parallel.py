"""What stands against tensor parallelism in a run."""

from litespark.mesh import Roles
from litespark.models.spec import TakesTensorParallel
from litespark.run.config import Parts
from litespark.tasks.task import NeedsTools, RollsOut


def why_not_tensor(parts: Parts, roles: Roles) -> list[str]:
    """Everything that stands against it, each with what would mend it; nothing where no ranks share matrices."""
    if (size := roles.tensor) == 1:
        return []
    model, got = parts.model, f"strategy={parts.strategy.name}: got"
    if not isinstance(model, TakesTensorParallel):
        return [
            f"{got} model={model.name}, expected one whose matrices ranks compute in parts, as the native Llama's "
            "(TakesTensorParallel of models/spec.py); set strategy=fsdp"
        ]
    reasons = []
    if (reason := model.why_not_parallel(size, roles.shard)) is not None:
        reasons.append(f"{got} {reason}; set strategy.tensor or strategy.shard to another number, or strategy=fsdp")
    if (length := parts.data.seq_len) % size:
        near = -(-length // size) * size
        reasons.append(f"{got} data.seq_len={length}, expected a multiple of {size} ranks; set data.seq_len={near}")
    if isinstance(parts.task, NeedsTools | RollsOut):
        reasons.append(f"{got} task={parts.task.name}, expected one that samples nothing; set strategy=fsdp")
    if parts.adapter is not None:
        reasons.append(f"{got} an adapter, expected none; set adapter=none, or strategy=fsdp")
    if parts.ops.compile not in ("none", "auto"):
        reasons.append(f"{got} ops.compile={parts.ops.compile}, expected none; set ops.compile=none")
    return reasons
