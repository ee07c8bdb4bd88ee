"""Two real processes that share one model by FSDP2: the same weights, loss, gradients and export as one process."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from litespark.models.llama.huggingface import load_huggingface
from litespark.ops.backend import resolve
from tests.models.small import BIASES, SDPA, small_model


def test_two_processes_have_the_weights_loss_gradients_and_export_of_one(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = subprocess.run(
        [*torchrun, "-m", "tests.models.sharded_worker", str(tmp_path / "exported")],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    assert len(list((tmp_path / "exported").glob("model-*.safetensors"))) > 1
    exported = load_huggingface(tmp_path / "exported", resolve(SDPA)).state_dict()
    for name, value in small_model(seed=5, **BIASES).state_dict().items():
        assert torch.equal(exported[name], value), name
