"""The losses of tokens at a temperature, of both kinds of model."""

from types import SimpleNamespace

import pytest
import torch

from litespark.models.huggingface.model import CausalLM
from litespark.ops.backend import OpsConfig, resolve
from litespark.tasks.sequences import token_losses
from tests.models.huggingface.families import build
from tests.models.small import small_model


@pytest.mark.parametrize("family", ["native", "gemma2", "cohere", "cohere whole"])  # capped, scaled, without chunks
def test_a_temperature_divides_the_logits_whatever_the_head_does_to_them(family):
    if family == "native":
        model = small_model()
    else:
        causal_lm = build(family.split()[0], final_logit_softcapping=1.0)
        spec = SimpleNamespace(num_labels=None, transformers=causal_lm.config)
        model = CausalLM(spec, resolve(OpsConfig(linear_cross_entropy="chunked")), "none", causal_lm)
        assert model.head is not None
        if family.endswith("whole"):
            model.head = None
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    batch = SimpleNamespace(
        tokens=ids[:, :-1], labels=ids[:, 1:], positions=None, documents=None, cu_seqlens=None, branches=None
    )
    expected = -(model(batch.tokens) / 0.5).log_softmax(-1).gather(2, batch.labels[..., None])[..., 0]
    losses = token_losses(model.train(), batch, 0.5).nats
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(losses, token_losses(model, batch).nats, rtol=1e-3)
