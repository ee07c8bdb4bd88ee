"""What log-probabilities of a reference are kept under."""

import pytest

from litespark.run.build import about_reference
from litespark.run.composing import compose_parts
from litespark.training import reference


@pytest.mark.parametrize("change", ["model.rope_theta=1e6", "precision=bf16", "code", "data"])
def test_what_computes_something_else_of_equal_weights_has_another_key(change, monkeypatch):
    def key(*overrides, data="a"):
        about = about_reference(compose_parts(["precision=fp32", *overrides]), "fp32", {"rope": "reference"})
        return reference.reference_key({"weights": "same", "manifest_hash": data, **about})

    before = key()
    assert key("optim.lr=1e-3") == before
    if change == "code":
        monkeypatch.setattr(reference, "VERSION", reference.VERSION + 1)
    assert key(*[change] if "=" in change else [], data="b" if change == "data" else "a") != before
