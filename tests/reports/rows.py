"""Finds a row of a table by its first cell."""

from litespark.reports.table import Table


def row(table: Table, *first: str) -> list[str]:
    """The cells of the one row that begins with these, as they are shown, without them."""
    (found,) = [cells for cells in table.cells if cells[: len(first)] == list(first)]
    return found[len(first) :]


def notes(table: Table) -> str:
    """All that stands around the cells."""
    return "\n".join([table.title, *table.about, *table.all_notes])
