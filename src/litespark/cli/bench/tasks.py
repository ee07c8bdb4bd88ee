"""`litespark bench tasks`: post-training beside TRL."""

from typing import Annotated

from typer import Context, Option

from litespark.cli.bench.records import Output, Publish, recording, show
from litespark.cli.configs import Overrides

_VARIANT = "sft, dpo, grpo, sft_lora, or TRL's: sft_trl, dpo_trl, grpo_trl, sft_trl_padded; again for more; all but it"


def tasks(
    context: Context,
    overrides: Overrides,
    *,
    variant: Annotated[list[str], Option(default_factory=list, metavar="WORD", help=_VARIANT)],
    rounds: Annotated[int, Option(help="Processes of each that is measured")] = 3,
    steps: Annotated[int, Option(help="Counted steps of a process")] = 4,
    warmup: Annotated[int, Option(help="Steps before them")] = 1,
    minutes: Annotated[float | None, Option(help="Begin no process later")] = None,
    output: Output = None,
    publish: Publish = False,
) -> int:
    """Measure steps of SFT, DPO and GRPO, ours and TRL's."""
    from litespark.benchmarks.tasks.session import TaskSettings, bench_tasks
    from litespark.reports.tasks import failures, tables

    settings = TaskSettings(rounds=rounds, steps=steps, warmup_steps=warmup, minutes=minutes)
    given = recording(context, output, publish)
    record, path = bench_tasks(overrides, settings, variants=variant, **given)
    show(publish, tables(record), path, complete=record.complete)
    return 1 if failures(record) else 0
