"""`litespark.apply` beside the code of others: trainers, PEFT, copies, compilers, sharding."""

import importlib.util
from pathlib import Path

import pytest

_EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def _example(name):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", _EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["transformers_trainer", "trl_sft"])
def test_examples_train_and_evaluate_with_the_losses_of_the_model_as_it_was(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    example = _example(name)
    ours, theirs = (
        example.train(None, tmp_path / str(plain), steps=2, plain=plain).state.log_history for plain in (False, True)
    )
    for got, expected in zip(ours, theirs, strict=True):
        for key in expected.keys() & {"loss", "grad_norm", "eval_loss", "entropy", "eval_entropy"}:
            assert got[key] == pytest.approx(expected[key], rel=1e-5), key
    assert sum("grad_norm" in row for row in theirs) == 2
    assert any("eval_loss" in row for row in theirs)
