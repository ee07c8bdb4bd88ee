"""`litespark bench parity`, `to-loss`, `selection` and `lifecycle`: what is trained to the end with every seed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Context, Option

from litespark.cli.bench.records import Output, Publish, recording, show
from litespark.cli.configs import Overrides, repository


def _variant(usual: str) -> Any:
    told = f"'NAME: OVERRIDE OVERRIDE …', the first is what others are held against; once for each; {usual}"
    return Option(default_factory=list, help=told)


Seeds = Annotated[str, Option(metavar="N,N", help="One run of everything for each")]
Minutes = Annotated[float | None, Option(help="Stop and save after so many; the same command continues")]
_BOUND = "Share by which the bits per byte may be above those of the first"
_TARGET = "Validation bits per byte at which a run ends; also as budget.target_bpb=X"


def parity(
    context: Context,
    overrides: Overrides,
    *,
    variant: Annotated[list[str], _variant("bf16, fp8, fp8_tensorwise")],
    bound: Annotated[float, Option(help=_BOUND)] = 0.005,
    seeds: Seeds = "1",
    minutes: Minutes = None,
    output: Output = None,
    publish: Publish = False,
) -> int:
    """Measure the loss of variants after equal tokens, beside their speed."""
    from litespark.benchmarks.training.variants import PARITY

    given = {"seeds": seeds, "minutes": minutes, "bound": bound}
    return _run(PARITY, context, overrides, variant, given, output, publish)


def to_loss(
    context: Context,
    overrides: Overrides,
    *,
    variant: Annotated[list[str], _variant("reference, litespark, muon")],
    target_bpb: Annotated[float | None, Option(help=_TARGET)] = None,
    seeds: Seeds = "1",
    minutes: Minutes = None,
    output: Output = None,
    publish: Publish = False,
) -> int:
    """Measure the cost of variants to the same bits per byte."""
    from litespark.benchmarks.training.variants import TO_LOSS

    if target_bpb is not None:
        overrides = [*overrides, f"budget.target_bpb={target_bpb!r}"]
    return _run(TO_LOSS, context, overrides, variant, {"seeds": seeds, "minutes": minutes}, output, publish)


def lifecycle(
    context: Context,
    overrides: Overrides,
    *,
    seeds: Seeds = "1",
    output: Output = None,
    publish: Publish = False,
) -> int:
    """Train every stage of a model's life, and compare its models."""
    from litespark.benchmarks.lifecycle.session import bench_lifecycle
    from litespark.reports.lifecycle import tables, write_page

    where = recording(context, output, publish)
    record, path = bench_lifecycle(overrides, seeds=seeds, script=repository() / "train.py", **where)
    print(f"page: {write_page(record, path)}")
    show(publish, tables(record), path)
    return 0


def selection(
    context: Context,
    overrides: Overrides,
    *,
    clean_bytes: Annotated[int, Option(help="Of clean text from data.source")] = 2_000_000,
    planted: Annotated[float, Option(help="Bytes of junk for each clean one")] = 1.0,
    planted_seed: Annotated[int, Option(help="Of what is planted")] = 1,
    seeds: Seeds = "1",
    minutes: Minutes = None,
    output: Output = None,
    publish: Publish = False,
) -> int:
    """Measure the effect of selecting documents, at equal tokens."""
    from litespark.benchmarks.training.corpus import CorpusSettings
    from litespark.benchmarks.training.variants import SELECTION

    corpus = CorpusSettings(clean_bytes=clean_bytes, planted=planted, planted_seed=planted_seed)
    given = {"seeds": seeds, "minutes": minutes, "corpus": corpus}
    return _run(SELECTION, context, overrides, [], given, output, publish)


def _run(
    question: Any,
    context: Context,
    overrides: list[str],
    variants: Sequence[str],
    given: dict[str, Any],
    output: Path | None,
    publish: bool,
) -> int:
    from litespark.benchmarks.training import session
    from litespark.benchmarks.training.variants import parse
    from litespark.reports.training import all_within, figure, tables

    settings = session.TrainingSettings(**given | {"seeds": session.seeds_of(given["seeds"])})
    chosen = [parse(variant, question.variants) for variant in variants]
    where = recording(context, output, publish)
    script = repository() / "train.py"
    record, path = session.bench_training(question, overrides, settings, chosen, script=script, **where)
    show(publish, tables(record), path, figure(record))
    return 0 if record.complete and all_within(record) else 1
