"""What a run reached in each domain of its validation text; nothing where the data has one domain."""

from litespark.metrics import names
from litespark.reports.quantities import plain
from litespark.reports.runs import Run
from litespark.reports.tables import markdown_table

TITLE = "## Validation by domain"


def domains_section(run: Run) -> list[str]:
    """The last validation by domain, with its heading, as Markdown; empty where no domains were told apart."""
    prefix = names.of_domain(names.VALIDATION_LOSS, "")
    domains = [column.removeprefix(prefix) for column in run.metrics.columns if str(column).startswith(prefix)]
    if not domains:
        return []
    rows = [
        (
            domain,
            plain(_last(run, names.of_domain(names.VALIDATION_LOSS, domain)), "nats/token"),
            plain(_last(run, names.of_domain(names.VALIDATION_BITS_PER_BYTE, domain))),
        )
        for domain in sorted(domains)
    ]
    return [TITLE, markdown_table(("domain", "validation loss", "bits per byte"), rows)]


def _last(run: Run, key: str) -> float | None:
    values = run.series(key)
    return float(values.iloc[-1]) if len(values) else None
