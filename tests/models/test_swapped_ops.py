"""A few steps of training with one op swapped: the losses stay those of the references."""

import pytest
import torch

from litespark.ops.backend import BACKENDS, REFERENCE, OpsConfig, resolve, why_not
from tests.models.small import random_ids, small_model

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SWAPS = [
    (op, name)
    for op, known in BACKENDS.items()
    for name in known
    # fp8 computes in no model here; tests/ops/test_linear_fp8.py swaps its pieces
    if op != "fp8" and name != REFERENCE and why_not(op, name, DEVICE, torch.float32) is None
]
DOCUMENTS = {
    "documents": torch.tensor([[0] * 7 + [1] * 9, [0] * 16], dtype=torch.int32),
    "positions": torch.stack([torch.cat([torch.arange(7), torch.arange(9)]), torch.arange(16)]),
    "cu_seqlens": torch.tensor([0, 7, 16, 32], dtype=torch.int32),
}


def _losses(ops: OpsConfig, steps: int = 3) -> list[float]:
    """Of steps of AdamW on B·S = 32 tokens, and after them."""
    recompute = "swiglu" if ops.swiglu_linear != REFERENCE else "none"
    model = small_model(ops, recompute=recompute).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    extra = {name: tensor.to(DEVICE) for name, tensor in DOCUMENTS.items()}
    losses = []
    for step in range(steps + 1):
        tokens, labels = random_ids(2, 16, seed=step % 3).to(DEVICE), random_ids(2, 16, seed=step % 3 + 1).to(DEVICE)
        loss = model(tokens, labels, **extra)
        losses.append(loss.item() / 32)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


@pytest.fixture(scope="module")
def expected():
    return _losses(OpsConfig(), steps=10)


def test_the_steps_teach_something(expected):
    assert expected[-1] < 0.8 * expected[0]


@pytest.mark.parametrize(("op", "name"), SWAPS)
def test_a_swapped_op_leaves_the_losses_as_they_are(op, name, expected):
    found = _losses(OpsConfig(**{op: name}))
    assert found == pytest.approx(expected[: len(found)], rel=1e-5)


def test_a_swap_that_is_wrong_moves_the_loss_further(expected, monkeypatch):
    wrong = resolve(OpsConfig()).swiglu
    monkeypatch.setattr("litespark.ops.swiglu.reference.swiglu", lambda gate_up: 1.001 * wrong(gate_up))
    found = _losses(OpsConfig())
    assert found != pytest.approx(expected[: len(found)], rel=1e-5)
