"""What CONTRIBUTING.md shows of one's own: pasted, trained through train.py, resumed and reported."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from litespark.cli import main
from litespark.launch import Ranks
from litespark.run.config import Parts
from litespark.run.load import load_trained
from litespark.run.metric_rows import read_metrics
from litespark.run.preflight import preflight
from litespark.run.targets import ALLOWED_VARIABLE, ConfigError
from tests.checkpoints import state_in
from tests.cli.tiny_run import tiny
from tests.pasted import shown_files
from tests.run.composed import parts

SMALL = (
    "data=synthetic data.seq_len=16 data.micro_batch_size=4 data.synthetic_validation_sequences=6 "
    "trainer.global_batch_size=8 trainer.log_every=1 trainer.accelerator=cpu trainer.validate_every=3 "
    "metrics.probe_seconds=0 callbacks.sample_prompt=null callbacks.progress=false budget.tokens=null optim.lr=1e-2"
).split()
BIGRAM = ["model=bigram", "model.vocab_size=64", "model.hidden_size=16"]
LLAMA = (
    "model.vocab_size=64 model.hidden_size=16 model.num_layers=1 model.num_heads=2 model.num_kv_heads=1 "
    "model.intermediate_size=32"
).split()


@pytest.fixture
def mypkg(package, tmp_path, monkeypatch):
    """What CONTRIBUTING.md shows, in a package and config files outside of the project."""
    for path, content in shown_files().items():
        if path.startswith(("mypkg/", "configs/")):
            file = (package.parent if path.startswith("mypkg/") else tmp_path) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
    monkeypatch.setenv(ALLOWED_VARIABLE, "mypkg.,lightning.pytorch.loggers.")
    return tmp_path


def _train(folder: Path, name: str, *overrides: str) -> dict:
    """The record of a run through the command, in this process."""
    words = ["train", f"--config-dir={folder}/configs", *SMALL, f"paths.logs={folder}/logs", f"name={name}"]
    assert main([*words, *overrides]) == 0
    return json.loads((folder / "logs" / "runs" / name / "run.json").read_text())


def _losses(folder: Path, name: str) -> list[float]:
    rows = read_metrics(folder / "logs" / "runs" / name)
    return [row["train/loss"] for row in rows if row.get("train/loss") is not None]


def _weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    checkpoint = folder / "logs" / "runs" / name / "checkpoints" / "step-00000006"
    weights: dict[str, torch.Tensor] = state_in(checkpoint)["state_dict"]
    return weights


def test_a_task_and_a_model_of_ones_own_are_trained_resumed_and_reported(mypkg):
    mine = ["task=pairs", *BIGRAM]
    record = _train(mypkg, "whole", *mine, "budget.steps=6")
    assert (record["task"], record["loss_unit"], record["model"]["name"]) == ("pairs", "nats/pair", "bigram")
    quality, metrics = record["quality"], {each["name"]: each["value"] for each in record["task_metrics"]}
    assert 0 < quality["validation_loss"] < quality["train_loss"] + 1
    assert metrics.keys() == {"pair_accuracy"}
    assert metrics["pair_accuracy"] == read_metrics(mypkg / "logs/runs/whole")[-1]["validation/pair_accuracy"]
    assert (quality["bits_per_byte"], quality["perplexity"], record["data"]["unigram_entropy"]) == (None, None, None)
    assert record["ops"] == []
    parameters = sum(weight.numel() for weight in _weights(mypkg, "whole").values())
    assert record["model"]["parameters"] == parameters

    report = (mypkg / "logs" / "runs" / "whole" / "report.md").read_text()
    rows = dict(re.findall(r"^\| (.*?) \| (.*?) \|", report, re.M))
    assert rows["validation loss"].endswith("nats/pair")
    assert float(rows["pair_accuracy"]) == pytest.approx(metrics["pair_accuracy"], rel=1e-2)
    assert re.search(r"bits per byte.*the task pairs does not measure it", report)

    # the schedule is that of six steps: the same run, cut in two
    cut = [*mine, "budget.schedule_end=6"]
    _train(mypkg, "cut", *cut, "budget.steps=3")
    again = _train(mypkg, "cut", *cut, "budget.steps=6", f"resume={mypkg}/logs/runs/cut")
    assert (again["status"], again["throughput"]["steps"], len(again["segments"])) == ("finished", 6, 2)
    assert _losses(mypkg, "cut") == _losses(mypkg, "whole")
    ours, theirs = _weights(mypkg, "cut"), _weights(mypkg, "whole")
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())


def test_on_text_nothing_of_ones_own_is_told_in_bits_and_its_weights_are_read_back(mypkg, capsys):
    mine = ["train", f"--config-dir={mypkg}/configs", "task=pairs", "model=bigram", "model.vocab_size=300"]
    mine += ["model.hidden_size=16", *(word for word in tiny(mypkg, budget__steps=1) if not word.startswith("model."))]
    assert main([*mine, "name=first", "callbacks.sample_prompt=the"]) == 0
    first, second = (mypkg / "logs" / "runs" / name for name in ("first", "second"))
    record = json.loads((first / "run.json").read_text())
    assert (record["data"]["unigram_entropy"], record["data"]["unigram_bits_per_byte"]) == (None, None)
    reason = "no sample of text: got model=bigram, expected a model with `config` and `new_cache`"
    assert reason in "".join(capsys.readouterr())
    assert record["quality"]["sample"] is None

    # with steps too small to change a weight
    start = ["model=huggingface", f"model.path={first}", "optim.lr=1e-30", "callbacks.sample_prompt=null"]
    typed = [word for word in mine if not word.startswith("model")]
    assert main([*typed, "name=second", *start]) == 0
    weights, again = (load_trained(run).model.state_dict() for run in (first, second))
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())
    for words, complaint in (
        (["generate", str(first), "--prompt", "the"], "got a Bigram, expected a model with `config` and `new_cache`"),
        (["export", str(first), str(mypkg / "hf")], "got model=bigram, expected a family that transformers has"),
    ):
        assert main(words) == 1
        assert complaint in capsys.readouterr().err


def test_an_optimizer_and_a_logger_of_ones_own_are_used_and_resumed(mypkg):
    """Its momentum too: the run that is cut in two is the whole one."""
    csv = f"logger.own={{_target_:lightning.pytorch.loggers.CSVLogger,save_dir:{mypkg}/csv}}"
    mine = [*BIGRAM, "optim=sgd", "optim.lr=0.1", "budget.schedule_end=6"]
    assert _train(mypkg, "whole", *mine, csv, "budget.steps=6")["status"] == "finished"
    assert list(mypkg.glob("csv/**/metrics.csv"))
    _train(mypkg, "cut", *mine, "budget.steps=3")
    _train(mypkg, "cut", *mine, "budget.steps=6", f"resume={mypkg}/logs/runs/cut")
    assert _losses(mypkg, "cut") == _losses(mypkg, "whole")
    with pytest.raises(ConfigError, match=r"logger\.own\._target_: .* a subclass of lightning\.pytorch\.Logger"):
        _parts(mypkg, "logger.own={_target_:mypkg.sgd.SgdConfig}")


def test_a_callback_and_a_metric_of_ones_own_are_logged_and_recorded(mypkg, capfd):
    """The metric is a share of the tokens, beside those of pre-training."""
    mine = ["task=confident", "callbacks=mine", "callbacks.extra.hello.every=2", *BIGRAM]
    record = _train(mypkg, "run", *mine, "budget.steps=3")
    assert re.findall("hello after step .*", capfd.readouterr().out) == [
        "hello after step 2, 256 tokens",
        "hello after step 3, 384 tokens",
    ]
    rows = read_metrics(mypkg / "logs" / "runs" / "run")
    assert [row["mine/tokens_per_step"] for row in rows if "mine/tokens_per_step" in row] == [128, 128]
    (metric,) = record["task_metrics"]
    assert metric == {"name": "confident_share", "value": rows[-1]["validation/confident_share"]}
    assert 0 <= metric["value"] <= 1
    assert record["quality"]["token_accuracy"] is not None
    assert "confident_share" in (mypkg / "logs" / "runs" / "run" / "report.md").read_text()


@pytest.mark.parametrize(
    "mine",
    [["task=pairs", *LLAMA], [*BIGRAM, "optim=muon"]],
    ids=["own task, our model", "own model, our task and muon"],
)
def test_ones_own_goes_with_what_is_ours(mypkg, mine):
    record = _train(mypkg, "run", *mine, "budget.steps=4", "callbacks.report=false")
    assert (record["status"], record["throughput"]["steps"]) == ("finished", 4)
    assert ("attention" in {op["op"] for op in record["ops"]}) == (mine[1:] == LLAMA)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["budget.target_bpb=2"], r"budget.target_bpb=2.*: got task=pairs"),
        (["recompute=full"], r"recompute=full: got model=bigram, expected one of its modes: none"),
        (
            ["precision=fp8", "precision.fp8.simulate=true"],
            r"precision=fp8: got model=bigram, expected .*TakesFp8",
        ),
    ],
)
def test_what_ones_own_cannot_do_is_refused_before_the_run(mypkg, overrides, message):
    with pytest.raises(ConfigError, match=message):
        preflight(_parts(mypkg, "task=pairs", *overrides), Ranks(1, 0, 0, 1))


def test_metrics_that_are_no_metric_are_one_message(mypkg, capfd):
    pairs = mypkg / "path" / "mypkg" / "pairs.py"
    pairs.write_text(pairs.read_text().replace("return PairMetrics()", "return {}"))
    words = [f"--config-dir={mypkg}/configs", *SMALL, f"paths.logs={mypkg}/logs", "task=pairs", *BIGRAM]
    assert main(["train", *words, "budget.steps=1"]) == 1
    assert "Pairs.metrics: got dict, expected a torchmetrics.Metric" in capfd.readouterr().err


def test_counts_of_a_family_that_cannot_be_are_one_message(mypkg, capfd):
    words = [f"--config-dir={mypkg}/configs", *SMALL, f"paths.logs={mypkg}/logs", *BIGRAM, "model.hidden_size=-4"]
    assert main(["train", *words, "budget.steps=1"]) == 1
    error = capfd.readouterr().err
    assert "model=bigram: the counts of BigramConfig for these sizes cannot be: " in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task={_target_:mypkg.pairs.Pairs}", r"expected a choice; write configs/task/NAME\.yaml"),
        ("+task._target_=mypkg.pairs.Pairs", r"beside kind pretrain of the chosen file, expected one of them"),
    ],
)
def test_a_class_of_ones_own_is_chosen_by_a_file(mypkg, override, message):
    with pytest.raises(ValueError, match=message):
        _parts(mypkg, override)


def test_a_class_that_is_no_task_is_refused_with_what_it_lacks(mypkg):
    (mypkg / "configs" / "task" / "wrong.yaml").write_text("_target_: mypkg.pairs.PairMetrics\n")
    with pytest.raises(ConfigError, match=r"task\._target_: got mypkg\.pairs\.PairMetrics, expected a Task .*divisor"):
        _parts(mypkg, "task=wrong")


def test_a_loss_that_is_no_sum_and_metrics_without_a_loss_are_named(mypkg):
    pairs = mypkg / "path" / "mypkg" / "pairs.py"
    sound = pairs.read_text()
    for right, wrong, message in (
        ("batch)).sum()\n", "batch))\n", r"Pairs\.loss: got a tensor of shape \(4,\), expected \(\)"),
        ("batch)).sum()\n", "batch)).sum().detach()\n", r"Pairs\.loss: got a tensor of shape \(\) without a gradient"),
        ("return batch.token_count //", "return torch.tensor(4) + 0 *", r"Pairs\.divisor: got Tensor, expected an int"),
        ('{"loss": self.nats', '{"nats": self.nats', r"PairMetrics\.compute: got nats, pair_accuracy, expected loss"),
    ):
        assert right in sound
        pairs.write_text(sound.replace(right, wrong))
        sys.modules.pop("mypkg.pairs", None)
        words = [f"--config-dir={mypkg}/configs", *SMALL, f"paths.logs={mypkg}/logs", "task=pairs", *BIGRAM]
        with contextlib.suppress(ValueError):
            assert main(["train", *words, "budget.steps=1"]) == 1
        (record,) = [json.loads(path.read_text()) for path in (mypkg / "logs").rglob("run.json")]
        assert record["status"] == "failed"
        assert re.search(message, record["error"])
        shutil.rmtree(mypkg / "logs")


def _parts(folder: Path, *overrides: str) -> Parts:
    here = f"hydra.searchpath=[file://{folder}/configs]", f"paths.logs={folder}/logs"
    return parts(*here, *SMALL, *BIGRAM, "budget.steps=1", *overrides)
