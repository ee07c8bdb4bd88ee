"""Figures in documents: each needs a record, a citation, or the word that it is a setting.

The rules:

1. A figure is a number with a unit of speed, time, work, energy, power, memory or quality (tokens/s, ms, seconds,
   minutes, TFLOP/s, GB/s, J, kWh, W, MHz, %, GiB, bits per byte, nats), a factor (2.1x, 2.1×, "3 times faster", "twice
   as fast"), a number after "MFU" or "loss", or a number in a table under a heading that names one of these.
2. Right after a measured figure stands `<!-- record: results/DEVICE/FILE.json#PATH -->`. PATH is a field of the record
   or what is computed from it (`rows.litespark.tokens_per_second`, `ratios.litespark.compiled.tokens_per_second`), and
   the printed number is that value in the printed unit, rounded to the printed digits. "N % less" is 1 − value, "N %
   more" is value − 1. One anchor backs one figure.
3. `<!-- cited: SOURCE -->` (what others claim) and `<!-- setting -->` (a limit or a setting, nothing measured) back all
   figures before them in the same block: a paragraph, an item of a list, a row of a table. Alone in a block they back
   the whole block before it, which may be a table or a block of code.
4. Everything else is a problem, and so is an anchor whose record does not exist, does not validate, or says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from litespark.metrics.records.ledger import read_entry
from litespark.reports.markdown_blocks import COMMENT, Block, blocks, markdown_of_notebook
from litespark.reports.record_values import stored_scale, value_at

_PREFIX = {"": 1.0, "n": 1e-9, "µ": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0}
# a minus is part of it unless a number or a letter stands before, as in 332-378 and llama-3
_NUMBER = r"(?<![\w.,/])(?<![A-Za-z]-)(?P<number>[-−]?\d[\d,]*(?:\.\d+)?)"
_UNIT = (
    r"(?:(?P<rate>[kM]?)\s?tok(?:en)?s?\s?(?:/s\b|/second|(?:per|a) second)(?:/W)?"
    r"|(?P<si>[nµmkMGTPE]?)(?:J(?:/token|/step)?|W|Wh|Hz|FLOPs?/s|FLOPS|B/s|[Bb]ytes/s)(?![\w/])"
    r"|(?P<watts>watts?|joules?)\b"
    r"|(?P<binary>[KMGT]i?B)(?![\w/])"
    r"|(?P<small>[nµm])s\b"
    r"|(?P<time>s|sec|seconds?|min|minutes?|h|hours?)\b(?!/)"
    r"|(?P<percent>%)(?P<than>\s+(?:less|fewer|lower|slower|below|more|faster|higher|above)\b)?"
    r"|(?P<factor>[x×](?![\w])(?!\s?\d)|times (?:faster|slower|less|more|lower|higher|as |the ))"
    r"|(?P<plain>nats?\b|bits?(?: per |/)byte|bpb\b|°C))"
)
_FIGURE = re.compile(rf"{_NUMBER}[\s-]?{_UNIT}")
_RANGE = re.compile(rf"{_NUMBER}(?=\s?(?:%\s?)?[–-]\s?\d[\d.,]*\s?{_UNIT.replace('?P<', '?P<r_')})")
_NAMED = re.compile(r"\b(?:[MH]FU|[Ll]oss(?:es)?)(?: \([CF]\))?(?: of| is| was|:|=)? ?(?P<number>\d[\d,]*(?:\.\d+)?)")
_WORDS = {"half": 0.5, "twice": 2, "thrice": 3} | {
    f"{word} times": value for value, word in enumerate("two three four five six seven eight nine ten".split(), start=2)
}
_SPOKEN = re.compile(
    rf"\b(?P<word>{'|'.join(_WORDS)}) (?:as (?:fast|slow|much|many)|the (?:speed|throughput|energy|time|memory)|faster"
    r"|slower|less|more|higher|lower)",
    re.IGNORECASE,
)
_WITHOUT = (
    "states a figure without a record; put <!-- record: results/DEVICE/FILE.json#PATH -->, <!-- cited: SOURCE --> or "
    "<!-- setting --> after it"
)
_ANCHOR = re.compile(r"<!--\s*(?P<kind>record|cited|setting)\b(?::\s*(?P<text>.*?))?\s*-->", re.DOTALL)
_HEADING = re.compile(rf"(?<![\w/])(?:{_UNIT}|[MH]FU\b|[Ll]oss|[Rr]atio|[Ss]peed-?up)")
_ANY_NUMBER = re.compile(rf"{_NUMBER}(?!\w)")


@dataclass(frozen=True)
class Figure:
    """A figure of a text; `scale` is what one of its unit is in base units."""

    start: int
    end: int
    text: str
    number: str
    scale: float = 1.0
    than: str = ""

    def is_of(self, value: float, stored: float) -> bool:
        """Whether the printed number is a stored value, rounded to the printed digits."""
        if self.than:
            value = 1 - value if self.than in ("less", "fewer", "lower", "slower", "below") else value - 1
        digits = len(self.number.partition(".")[2])
        printed = float(self.number.replace(",", "").replace("−", "-"))
        return abs(value * stored / self.scale - printed) <= 0.5 * 10**-digits * (1 + 1e-9)


def figures(text: str, header: str = "") -> list[Figure]:
    """The figures of a block, in order; `header` is the heading of a table where the block is one of its rows."""
    visible = COMMENT.sub(lambda comment: " " * len(comment[0]), text)
    found = [_figure(match) for match in _FIGURE.finditer(visible)]
    found += [
        Figure(match.start("number"), match.end("number"), match[0], match["number"])
        for match in _NAMED.finditer(visible)
    ]
    for match in _RANGE.finditer(visible):
        unit = _FIGURE.search(visible, match.end())
        scale = _figure(unit).scale if unit else 1.0
        found.append(Figure(match.start(), match.end(), match[0], match["number"], scale))
    found += [
        Figure(match.start(), match.end(), match[0], f"{_WORDS[match['word'].lower()]:.1f}")
        for match in _SPOKEN.finditer(visible)
    ]
    if header:
        found += _under_headings(visible, header)
    kept: list[Figure] = []
    for each in sorted(found, key=lambda figure: (figure.start, -figure.end)):
        if not kept or each.start >= kept[-1].end:
            kept.append(each)
    return kept


def _figure(match: re.Match[str]) -> Figure:
    than = (match["than"] or "").strip()
    if match["percent"]:
        scale = 0.01
    elif match["binary"]:
        prefix = match["binary"]
        scale = 1024.0 ** ("KMGT".index(prefix[0]) + 1) if "i" in prefix else 1000.0 ** ("KMGT".index(prefix[0]) + 1)
    elif match["time"]:
        word = match["time"]
        scale = _SECONDS[word if word in _SECONDS else word.removesuffix("s")]
    else:
        prefix = match["rate"] or match["si"] or match["small"] or ""
        scale = _PREFIX[prefix] * (3600.0 if match[0].endswith("Wh") else 1.0)
    return Figure(match.start(), match.end(), match[0], match["number"], scale, than)


def _under_headings(row: str, header: str) -> Iterator[Figure]:
    """Numbers of a table's row under headings that name a unit."""
    start = 0
    for cell, heading in zip(row.split("|"), header.split("|"), strict=False):
        if (unit := _HEADING.search(heading)) is not None:
            printed = _FIGURE.fullmatch(f"1 {unit[0].strip()}")
            scale = _figure(printed).scale if printed else 1.0
            for match in _ANY_NUMBER.finditer(cell):
                yield Figure(start + match.start(), start + match.end(), match["number"], match["number"], scale)
        start += len(cell) + 1


def check_document(text: str, name: str, root: Path) -> list[str]:
    """One line for each figure that nothing backs, and each anchor that does not hold.

    Args:
        text: Markdown.
        name: of the document, for the messages.
        root: the folder that the paths of records begin in.
    """
    found = blocks(text)
    problems: list[str] = []
    for position, block in enumerate(found):
        anchors = list(_ANCHOR.finditer(block.text))
        unbacked = figures(block.text, block.header)
        for anchor in anchors:
            where = f"{name}:{block.line + block.text[: anchor.start()].count(chr(10))}"
            before = [each for each in unbacked if each.start < anchor.start()]
            if anchor["kind"] == "record":
                if not before:
                    problems.append(f"{where}: an anchor without a figure before it: {anchor[0]}")
                    continue
                unbacked.remove(before[-1])
                problems += [f"{where}: {wrong}" for wrong in _against_record(before[-1], anchor["text"] or "", root)]
            else:
                if anchor["kind"] == "cited" and not anchor["text"]:
                    problems.append(f"{where}: cited: got no source, expected one, as <!-- cited: arXiv 2510.02483 -->")
                unbacked = [each for each in unbacked if each not in before]
        covered = position + 1 < len(found) and _covers(found, position + 1, block)
        if not covered:
            for each in unbacked:
                line = block.line + block.text[: each.start].count("\n")
                problems.append(f"{name}:{line}: {' '.join(each.text.split())!r} {_WITHOUT}")
    return problems


def _covers(found: list[Block], position: int, block: Block) -> bool:
    """Whether the first block after this one's group is an anchor alone that backs blocks."""
    after = next((each for each in found[position:] if each.group != block.group), None)
    if after is None or COMMENT.sub("", after.text).strip():
        return False
    anchor = _ANCHOR.fullmatch(after.text.strip())
    return anchor is not None and anchor["kind"] != "record"


def _against_record(figure: Figure, target: str, root: Path) -> Iterator[str]:
    file, _, path = target.partition("#")
    if not path:
        yield f"record: got {target!r}, expected results/DEVICE/FILE.json#PATH"
        return
    try:
        value = value_at(read_entry(root / file), path)
    except (ValueError, OSError) as error:
        yield f"{' '.join(figure.text.split())!r}: {' '.join(str(error).split())}"
        return
    if not figure.is_of(value, stored_scale(path)):
        yield f"{' '.join(figure.text.split())!r} is not what its record says: {target} is {value!r}"


def documents(root: Path) -> dict[str, str]:
    """Name and Markdown of everything whose figures are checked: README, change log, docs, results, notebooks."""
    paths = [root / "README.md", root / "CHANGELOG.md", root / "CONTRIBUTING.md"]
    paths += [*sorted(root.glob("docs/*.md")), *sorted(root.glob("results/*.md"))]
    found = {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in paths if path.exists()}
    for path in sorted(root.glob("notebooks/*.py")):
        found[str(path.relative_to(root))] = markdown_of_notebook(path.read_text(encoding="utf-8"))
    return found


def check_documents(root: Path) -> list[str]:
    """`check_document` of all of them."""
    return [problem for name, text in documents(root).items() for problem in check_document(text, name, root)]
