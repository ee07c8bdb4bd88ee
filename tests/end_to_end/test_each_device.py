"""The same checks on the CPU and, where there is one, on a GPU (`make test-gpu`): ops, a whole run, its instruments."""

import json
import time
from pathlib import Path

import pytest
import torch

from litespark.metrics.hardware import measured_matmul_peak
from litespark.metrics.meters import choose_meter
from litespark.models.init import initialise
from litespark.models.llama.config import LlamaConfig
from litespark.models.llama.model import Llama
from litespark.ops.backend import BACKENDS, REFERENCE, OpsConfig, resolve, why_not
from litespark.ops.tolerance import relative_distance
from tests.end_to_end.runs import TINY, train, write_text

GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])


@pytest.fixture(params=["cpu", GPU])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def test_a_model_has_the_same_weights_and_loss_on_every_device(device: torch.device):
    config = LlamaConfig("test", hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=96,
                         vocab_size=300, max_seq_len=64)  # fmt: skip
    losses = []
    for place in (torch.device("cpu"), device):
        with torch.device("meta"):
            model = Llama(config, resolve(OpsConfig(attention="sdpa")))
        model.to_empty(device=place)
        initialise(model, model.config, seed=3)
        tokens = torch.randint(0, 300, (2, 64), generator=torch.Generator().manual_seed(1)).to(place)
        losses.append(model(tokens, tokens).detach().cpu())
    assert relative_distance(losses[1], losses[0]) < 1e-5


def test_the_matmul_probe_gives_a_rate_that_a_device_can_have(device: torch.device):
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    before = torch.get_rng_state()
    assert 1e8 < measured_matmul_peak(device, dtype, seconds=0.05) < 1e16
    assert torch.equal(before, torch.get_rng_state())


def test_energy_is_read_or_absent_with_a_reason(device: torch.device):
    meter = choose_meter(device)
    first = meter.read()
    time.sleep(0.5 if meter.method else 0)
    second = meter.read()
    for before, after in zip(first.millijoules, second.millijoules, strict=True):
        assert (before is None and meter.reason) or after > before


def test_a_whole_run_trains_and_records_what_it_ran_on(device: torch.device, tmp_path: Path):
    write_text(tmp_path / "text")
    kind = "cpu" if device.type == "cpu" else "gpu"
    settings = f"trainer.accelerator={kind} precision=auto budget.steps=30 optim.lr=1e-2 name=run".split()
    places = [f"data.source={tmp_path}/text", f"paths.data={tmp_path}/data", f"paths.logs={tmp_path}/logs"]
    train(*TINY, *settings, *places)
    record = json.loads((tmp_path / "logs/runs/run/run.json").read_text())
    assert record["status"] == "finished"
    assert record["provenance"]["environment"]["precision"] == ("bf16" if device.type == "cuda" else "fp32")
    rows = [json.loads(line) for line in (tmp_path / "logs/runs/run/metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < losses[0] - 0.5
    if device.type == "cuda":
        assert record["provenance"]["environment"]["devices"][0]["name"] == torch.cuda.get_device_name(0)
        assert record["throughput"]["peak_memory_gib"] > 0
        assert record["throughput"]["step_ms_median"] > 0
        assert record["energy"]["train_joules"] is None or record["energy"]["train_joules"] > 0
        assert record["energy"]["train_joules"] is not None or record["energy"]["reason"]


def _loss_after_fifty_steps(folder: Path, data: Path, *overrides: str) -> float:
    settings = (
        "precision=fp32 trainer.accelerator=gpu budget.tokens=null budget.steps=50 callbacks.report=false name=run"
    )
    places = [f"paths.data={data}", f"paths.logs={folder}"]
    train("experiment=quickstart", "ops=reference", *overrides, *settings.split(), *places, timeout=600)
    record = json.loads((folder / "runs/run/run.json").read_text())
    return record["quality"]["validation_loss"]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The prepared data, and the loss with nothing but references."""
    folder = tmp_path_factory.mktemp("quickstart")
    return folder / "data", _loss_after_fifty_steps(folder, folder / "data")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("op", "name"), [(op, name) for op, known in BACKENDS.items() for name in known])
def test_fifty_steps_of_the_quickstart_keep_their_loss_with_one_op_swapped(
    op: str, name: str, quickstart: tuple[Path, float], tmp_path: Path
):
    """In fp32, each backend that can run on this GPU against all references."""
    if name == REFERENCE or why_not(op, name, torch.device("cuda", 0), torch.float32) is not None:
        pytest.skip("the reference itself, or it cannot run here in fp32")
    data, expected = quickstart
    swap = [f"ops.{op}={name}", *(["recompute=swiglu"] if op == "swiglu_linear" else [])]
    assert _loss_after_fifty_steps(tmp_path, data, *swap) == pytest.approx(expected, rel=1e-3)
