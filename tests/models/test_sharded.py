"""Two real processes that share one model by FSDP2: the same weights, loss, gradients and export as one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from litespark.models.llama.huggingface import load_huggingface
from litespark.ops.backend import resolve
from litespark.ops.tolerance import relative_distance
from tests.models.small import SDPA, gradients, random_ids, small_model
from tests.ops.assertions import assert_close

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    run = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *("-m", "tests.models.sharded_worker", str(folder)),
        ],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return torch.load(folder / "found.pt", weights_only=True)


def test_weights_are_those_of_a_single_process(found):
    expected = dict(small_model(seed=5).named_parameters())
    assert found["weights"].keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found["weights"][name], value), name
    assert torch.equal(found["by columns"], expected["embedding.weight"])


def test_loss_and_gradients_are_those_of_a_single_process(found):
    model = small_model(seed=5)
    loss = model(random_ids(2, 16), random_ids(2, 16, seed=1))
    loss.backward()
    assert relative_distance(found["loss"], loss) < 1e-6
    assert_close(found["gradients"], gradients(model))


def test_mixed_precision_leaves_loss_and_rotary_tables_in_fp32(found):
    assert found["mixed loss"].dtype == torch.float32
    assert found["mixed cos"].dtype == torch.float32
    assert relative_distance(found["mixed loss"], found["loss"]) < 2e-2


def test_the_export_of_all_ranks_is_complete(folder):
    assert len(list((folder / "exported").glob("model-*.safetensors"))) > 1
    model = load_huggingface(folder / "exported", resolve(SDPA))
    for name, value in small_model(seed=5).state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
