"""Small runs of every task, in one process or as one rank of two, and what they end with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from litespark.callbacks.phases import Phases
from litespark.callbacks.reference import ReferenceModel
from litespark.models.adapters.config import LoraAdapter
from litespark.models.spec import Recompute
from litespark.ops.fp8.settings import Fp8Config
from litespark.run.metric_rows import read_metrics
from litespark.tasks.preferences.kto import KTO
from litespark.tasks.preferences.task import Preference
from litespark.tasks.reward import Reward
from litespark.tasks.sft import SFT
from litespark.training.optim import AdamWConfig
from litespark.training.parallel.config import StrategyConfig
from litespark.training.parallel.precision import Precision
from tests.tasks.grpo.test_policy import PROMPTS, policy
from tests.tasks.small_dpo import weights
from tests.tasks.toy_examples import VOCABULARY, Examples, random_examples
from tests.training.small_runs import small_run, training_module

STEPS, ROWS = 4, 4
KINDS = ("sft", "dpo", "kto", "reward", "grpo")
_RATED = [index % 3 != 0 for index in range(13)]


def _data(kind: str) -> dict[str, Any]:
    """Examples that two ranks cannot halve: rows of two, of which the last has one."""
    if kind == "grpo":
        return {"training": PROMPTS, "validation": PROMPTS[:3], "per_row": 1}
    if kind == "sft":  # weights that differ from row to row
        light, held_out = random_examples(7, sequences=1, weight=0.25, seed=3), random_examples(5, sequences=1, seed=9)
        return {"training": [*random_examples(6, sequences=1), *light], "validation": held_out}
    about = {"desirable": _RATED} if kind == "kto" else {}
    training, held_out = random_examples(13, **about), random_examples(5, seed=9, **about)
    return {"training": training, "validation": held_out, "columns": tuple(about)}


def _task(kind: str, phases: Phases, asked: dict[str, Any]) -> Any:
    made = {"sft": SFT, "dpo": Preference, "kto": KTO, "reward": Reward}
    return policy(phases, **{"beta": 0.2, "num_iterations": 2} | asked) if kind == "grpo" else made[kind](**asked)


def _local_bytes(model: nn.Module | None) -> int:
    """Of the parameters that this rank holds."""
    of = [] if model is None else list(model.parameters())
    return sum(it.nbytes for it in (each.to_local() if isinstance(each, DTensor) else each for each in of))


def task_run(
    folder: Path,
    kind: str,
    *,
    micro_batch_size: int = 1,
    strategy: str | None = None,
    lora: bool = False,
    precision: Precision = "fp32",
    recompute: Recompute = "none",
    **asked: Any,
) -> dict[str, Any]:
    """Four steps of four packed sequences; weights, logged rows and counts. `strategy`: this is one rank of two."""
    folder.mkdir(parents=True, exist_ok=True)
    settings, phases = _data(kind), Phases()
    data = Examples(micro_batch_size=micro_batch_size, last_ids=kind == "reward", **settings)
    devices, spread = (1, StrategyConfig()) if strategy is None else (2, StrategyConfig(strategy))  # type: ignore[arg-type]
    module = training_module(
        steps=STEPS, sequences=ROWS, task=_task(kind, phases, asked), strategy=spread, vocab_size=VOCABULARY,
        max_seq_len=48, optimizer=AdamWConfig(lr=1e-2, eps=1e-2), num_labels=1 if kind == "reward" else None,
        adapter=LoraAdapter(rank=2) if lora else None, precision=precision, recompute=recompute,
        fp8=Fp8Config(simulate=True) if precision == "fp8" else None,
    )  # fmt: skip
    if kind == "grpo" and strategy == "fsdp":  # as a run of sharded weights does
        module.task.tools = replace(module.task.tools, any_rank=module.mesh.any)
    module.metrics = module.task.metrics(data.manifest)
    callbacks = [ReferenceModel(folder, folder / "cache", phases=phases, about={})] if kind in ("dpo", "kto") else []
    run = small_run(
        folder, module, accumulate=ROWS // micro_batch_size // devices, validate_every=2, strategy=spread,
        devices=devices, phases=phases, callbacks=callbacks, precision=precision,
    )  # fmt: skip
    run.trainer.fit(module, data)
    run.metrics.save()
    return {
        "weights": weights(run),
        "rows": read_metrics(folder),
        "seen": (module.examples_seen, module.tokens_seen, module.last_step),
        "bytes": (_local_bytes(module.model), _local_bytes(module.reference_model)),
    }


def report(folder: Path, cells: list[dict[str, Any]]) -> None:
    """Each cell on this rank of two, to `FOLDER/rank-R.pt`."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    found = [task_run(folder / str(number), **cell) for number, cell in enumerate(cells)]
    torch.save(found, folder / f"rank-{rank}.pt")
    torch.distributed.destroy_process_group()
