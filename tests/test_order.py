"""The order in which the tests run: those that find most faults first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests import conftest
from tests.pasted import CONTRIBUTING

ROOT = CONTRIBUTING.parent


def test_those_named_come_first_and_the_rest_stays_in_order():
    files = ["tests/benchmarks/a.py", "tests/cli/b.py", *(f"{place}/c.py" for place in reversed(conftest.FIRST))]
    items: list[Any] = [SimpleNamespace(path=ROOT / file, add_marker=lambda mark: None) for file in files]
    config: Any = SimpleNamespace(rootpath=ROOT)
    conftest.pytest_collection_modifyitems(config, items)
    first = [f"{place}/c.py" for place in conftest.FIRST]
    assert [str(item.path.relative_to(ROOT)) for item in items] == [*first, "tests/benchmarks/a.py", "tests/cli/b.py"]


def test_what_is_to_come_first_exists():
    assert all((ROOT / place).exists() for place in conftest.FIRST)
