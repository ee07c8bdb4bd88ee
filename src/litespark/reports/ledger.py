"""`results/README.md` between its two markers: what was measured, device by device, from the records alone.

GPUs come first. Of each benchmark, model and precision the newest complete record is shown in full, and every other
one in a line of the history; nothing is chosen by hand. The same records always give the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

from litespark.metrics.records.ablation import AblationRecord
from litespark.metrics.records.ledger import Entry, read_ledger
from litespark.metrics.records.profile import ProfileRecord
from litespark.metrics.records.training import TrainingRecord
from litespark.metrics.step_table import Row, rows
from litespark.reports.figures import check_documents
from litespark.reports.ledger_lines import LINES, link, origin, step_record
from litespark.reports.markdown_blocks import BEGIN, END
from litespark.reports.quantities import plain, rate
from litespark.reports.step_text import markdown as step_markdown
from litespark.reports.tables import markdown_table

ON_CPU = "CPU: shows that the instrument works, not what the product is worth."
_TITLES = {
    "step": "Training step",
    "ablation": "What bought what",
    "profile": "Where the time goes",
    "training": "Quality, and what it takes",
    "ops": "Ops",
    "loop": "The trainer over a bare loop",
    "data": "Preparing and reading data",
    "run": "Runs",
}


def render(results: Path) -> str:
    """The text between the markers.

    Raises:
        ValueError: a record is refused; the message names each.
    """
    entries, refused = read_ledger(results)
    if refused:
        raise ValueError("\n".join(refused))
    devices = _grouped(entries, lambda entry: (entry.on_cpu, entry.path.parent.name))
    if not devices:
        return "There is no record yet."
    parts = [part for found in devices for part in _device(found, results)]
    if all(entry.on_cpu for entry in entries):
        parts.insert(0, "There is no record of a GPU yet.")
    return "\n\n".join(parts)


def with_rendering(text: str, rendering: str) -> str:
    """A document with a rendering between its markers, and the rest as it was.

    Raises:
        ValueError: the markers are not there once each, in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"results/README.md: expected one line {BEGIN!r} and below it one line {END!r}; put them in")
    return f"{before}{BEGIN}\n\n{rendering}\n\n{END}{after}"


def write_ledger(results: Path) -> Path:
    """Render into `results/README.md`; returns its path.

    Raises:
        ValueError: a record is refused, or the page has no markers; nothing is written then.
    """
    page = results / "README.md"
    page.write_text(with_rendering(page.read_text(encoding="utf-8"), render(results)), encoding="utf-8")
    return page


def check_ledger(root: Path) -> list[str]:
    """One line for each record that is refused, a page that is not its rendering, and each figure without a record."""
    results = root / "results"
    problems = read_ledger(results)[1]
    if not problems:
        page = (results / "README.md").read_text(encoding="utf-8")
        try:
            if page != with_rendering(page, render(results)):
                problems.append("results/README.md: is not what its records say; run: litespark results")
        except ValueError as error:
            problems.append(str(error))
    return problems + check_documents(root)


def _grouped(entries: Iterable[Entry], key: Callable[[Entry], tuple[object, ...]]) -> list[list[Entry]]:
    return [list(group) for _, group in groupby(sorted(entries, key=key), key)]


def _device(entries: Sequence[Entry], results: Path) -> list[str]:
    """One device: its heading, then the benchmarks in the order of `_TITLES`."""
    environment = max(entries, key=_age).environment
    device = environment.devices[0]
    cap = "" if device.power_limit_watts is None else f", power limit {plain(device.power_limit_watts, 'W')}"
    driver = "" if environment.driver is None else f", driver {environment.driver}"
    parts = [f"## {device.name} ({entries[0].path.parent.name})"]
    if entries[0].on_cpu:
        parts.append(ON_CPU)
    parts.append(f"Newest record: torch {environment.torch}, triton {environment.triton or 'absent'}{driver}{cap}.")
    order = list(_TITLES)
    for found in _grouped(entries, lambda entry: (order.index(entry.kind),)):
        parts.append(f"### {_TITLES[found[0].kind]}")
        for same in _grouped(found, _benchmark):
            parts += _steps(same, results) if same[0].kind == "step" else _lines(same, results)
    return parts


def _benchmark(entry: Entry) -> tuple[object, ...]:
    """What makes two records measurements of the same thing."""
    steps = step_record(entry) or entry.record
    protocol = getattr(steps, "protocol", None)
    shape: tuple[object, ...] = ()
    if protocol is not None:
        shape = (protocol.micro_batch_size, protocol.accumulate, protocol.seq_len, protocol.document_mask,
                 steps.model.num_layers, protocol.data)  # fmt: skip
    # what is compared: the switches of an ablation, the variant of a profile, what is trained how far
    record, asked = entry.record, ""
    if isinstance(record, AblationRecord):
        asked = ", ".join(record.names)
    elif isinstance(record, ProfileRecord):
        asked = record.variant
    elif isinstance(record, TrainingRecord):
        names = ", ".join(variant.name for variant in record.variants)
        asked = f"{names} {record.stream.budget_tokens} {record.target_bits_per_byte}"
    return (entry.what, entry.model, entry.precision, *map(str, shape), asked)


def _age(entry: Entry) -> tuple[str, str]:
    return entry.time, entry.path.name


def _newest(entries: Sequence[Entry]) -> Entry:
    """The newest complete record; where none is complete the newest."""
    return max(entries, key=lambda entry: (entry.complete, *_age(entry)))


def _lines(entries: Sequence[Entry], results: Path) -> list[str]:
    """The newest record in a few lines, and links to those before it."""
    newest = _newest(entries)
    said = LINES[newest.kind](newest)
    others = [entry for entry in sorted(entries, key=_age, reverse=True) if entry is not newest]
    also = [f"Others: {', '.join(link(entry, results, entry.time[:10]) for entry in others)}."] if others else []
    return [f"{link(newest, results)}, {origin(newest)}. {said}", *also]


def _steps(entries: Sequence[Entry], results: Path) -> list[str]:
    """The newest record whole, the best of every variant, and the history."""
    newest = _newest(entries)
    parts = [f"{link(newest, results)}, {origin(newest)}.", step_markdown(newest.record)]
    if len(entries) == 1:
        return parts
    ordered = sorted(entries, key=_age, reverse=True)
    table = {entry.path: [row for row in rows(entry.record) if row.tokens_per_second is not None] for entry in ordered}
    best: dict[str, tuple[Row, Entry]] = {}
    for entry in ordered:
        for row in table[entry.path]:
            if not row.doubts and (row.name not in best or _speed(row) > _speed(best[row.name][0])):
                best[row.name] = row, entry
    parts.append("Best of each variant so far, which may come from different records and is no ratio:")
    parts.append(
        markdown_table(
            ("variant", "tokens/s", "J/token", "record"),
            [(name, rate(_speed(row)), _energy(row), link(entry, results, origin(entry)))
             for name, (row, entry) in sorted(best.items())],
        )
    )  # fmt: skip
    parts.append("History:")
    parts.append(
        "\n".join(
            f"- {link(entry, results, entry.time[:10])}, {origin(entry)}: "
            + ", ".join(f"{row.name} {rate(_speed(row))} tokens/s" for row in table[entry.path])
            for entry in ordered
        )
    )
    return parts


def _speed(row: Row) -> float:
    assert row.tokens_per_second is not None
    return row.tokens_per_second.median


def _energy(row: Row) -> str:
    return plain(None if row.joules_per_token is None else row.joules_per_token.median)
