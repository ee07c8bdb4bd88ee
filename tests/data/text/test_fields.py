"""Names of fields in advice."""

from __future__ import annotations

from litespark.data.text.fields import nearest_first


def test_the_nearest_name_comes_first_whatever_its_case():
    assert nearest_first(["meta.url", "TEXT", "id", "txt"], "text")[:2] == ["TEXT", "txt"]
