"""`litespark results` and `litespark settings`: pages that are written from records and from the config groups."""

import sys
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from litespark.cli.configs import repository

_CHECK = "Write nothing; exit 1 where a record is refused or a document does not show what its records hold"


def results(
    *,
    check: Annotated[bool, Option("--check", help=_CHECK)] = False,
    root: Annotated[Path | None, Option(help="Folder with results/ and the documents; this repository")] = None,
) -> int:
    """Write the figures of documents from the records, or check them."""
    from litespark.reports.marks import check_documents, write_documents

    root = root or repository()
    if not check:
        for page in write_documents(root):
            print(page)
        return 0
    problems = check_documents(root)
    for problem in problems:
        print(problem, file=sys.stderr)
    print("results: nothing to complain of" if not problems else f"results: {len(problems)} problems")
    return 1 if problems else 0


def settings() -> int:
    """Write docs/settings.md, the page of every setting."""
    path = repository() / "docs" / "settings.md"
    path.write_text(page_of_settings(), encoding="utf-8")
    print(path)
    return 0


def page_of_settings() -> str:
    from omegaconf import OmegaConf

    from litespark.config.groups import GROUPS, KIND, classes_of
    from litespark.reports.settings import settings_page
    from litespark.run.composing import compose
    from litespark.run.folder import dotted

    defaults: dict[tuple[str, str], dict[str, Any]] = {}
    # a kind is called as a choice of it; the first of a group is in the defaults
    others = [f"{group}={kind}" for group in GROUPS for kind in list(classes_of(group))[1:]]
    for choice in ([], *([other] for other in others)):
        values: Any = OmegaConf.to_container(compose(["~experiment", *choice]))
        defaults.setdefault(("", ""), {key: value for key, value in values.items() if key not in GROUPS})
        for group in GROUPS:
            kind = values[group].get(KIND, next(iter(classes_of(group))))
            defaults.setdefault((group, kind), dict(dotted(values[group], group)))
    return settings_page(defaults)
