"""What was decided about the files of a source: their splits, and which are passed over, for a log and the manifest."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_SHOWN = 3
_KEPT = 100


@dataclass(frozen=True)
class Listing:
    """Files of a source by what was decided about them."""

    splits: str
    passed_over: dict[str, str] = field(default_factory=dict)
    taken_anyway: tuple[str, ...] = ()
    """What looks like another split than it is used as."""
    evaluations_passed_over: dict[str, str] = field(default_factory=dict)
    """Reason by path, of files in the folders of evaluation texts (`data.selection.decontaminate`)."""

    def lines(self) -> Iterator[str]:
        yield f"splits: {self.splits}"
        if self.passed_over:
            yield f"skipped {in_words(self.passed_over)}"
        if self.taken_anyway:
            yield f"named like a split, but used like the other files: {_named(self.taken_anyway)}"
        if self.evaluations_passed_over:
            yield f"skipped evaluation files: {in_words(self.evaluations_passed_over)}"

    def to_json(self) -> dict[str, Any]:
        """What the manifest keeps: counts, and the first names of each kind."""
        return {
            "splits": self.splits,
            "passed_over": _kept(self.passed_over),
            "taken_anyway": [*map(printable, self.taken_anyway[:_KEPT])],
            "evaluations_passed_over": _kept(self.evaluations_passed_over),
        }


def in_words(reasons: dict[str, str]) -> str:
    return "; ".join(f"{_named(names)}: {reason}" for reason, names in _by_value(reasons).items())


def printable(name: str) -> str:
    """A file's name as any terminal and file takes it."""
    return name if name.isprintable() else ascii(name)


def _kept(reasons: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {"reason": reason, "files": len(names), "names": [*map(printable, names[:_KEPT])]}
        for reason, names in _by_value(reasons).items()
    ]


def _by_value(values: dict[str, str]) -> dict[str, tuple[str, ...]]:
    return {value: tuple(name for name in values if values[name] == value) for value in dict.fromkeys(values.values())}


def _named(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{', '.join(map(printable, names[:_SHOWN]))}{more}"
