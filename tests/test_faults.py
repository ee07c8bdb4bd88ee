"""The page of faults is current, and every test that it names is there."""

import re

import pytest

from tests.end_to_end.bad_input import TABLE
from tests.faults import FAULTS, PAGE, ROOT, page

NAMED = sorted({test for _, tests in FAULTS.values() for test in tests})


@pytest.mark.parametrize("test", NAMED)
def test_a_test_that_the_page_names_is_there(test):
    path, name = test.split("::")
    assert (
        name in TABLE
        if path.endswith("/bad_input.py")
        else re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.M)
    )


def test_the_page_is_current():
    assert PAGE.read_text() == page(), "write it anew: python -m tests.faults"
