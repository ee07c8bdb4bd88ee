"""Two real processes that share one model by FSDP2: the same weights, loss, gradients and export as one process."""

import torch

from litespark.models.llama.huggingface import load_huggingface
from litespark.ops.backend import resolve
from tests.models.sharded_worker import main
from tests.models.small import BIASES, SDPA, small_model
from tests.warm_processes import run_ranks


def test_two_processes_have_the_weights_loss_gradients_and_export_of_one(tmp_path):
    run_ranks(2, main, tmp_path / "exported")
    assert len(list((tmp_path / "exported").glob("model-*.safetensors"))) > 1
    exported = load_huggingface(tmp_path / "exported", resolve(SDPA)).state_dict()
    for name, value in small_model(seed=5, **BIASES).state_dict().items():
        assert torch.equal(exported[name], value), name
