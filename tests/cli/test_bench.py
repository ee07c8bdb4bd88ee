"""`litespark bench WHAT` and `kernels`: what is handed on, printed and written; exit codes; real processes."""

import importlib
import json
import subprocess
from types import SimpleNamespace

import pytest

from litespark.benchmarks import ablation, kernels
from litespark.benchmarks.step import begin, request
from litespark.benchmarks.step import session as steps
from litespark.benchmarks.step.begin import StepSettings
from litespark.benchmarks.step.variants import HUGGINGFACE
from litespark.benchmarks.training import session as training
from litespark.benchmarks.training.corpus import CorpusSettings
from litespark.benchmarks.training.session import TrainingSettings
from litespark.benchmarks.training.variants import PARITY, SELECTION, TO_LOSS, Variant
from litespark.child_process import ask
from litespark.cli import main
from litespark.metrics.records.profile import ProfileRecord
from litespark.metrics.records.step import RatesRecord, StepRecord
from litespark.ops.compilation import Attempt, Compiled, Resources
from litespark.reports import marks
from litespark.reports.kernels import page
from litespark.run.checkout import repository
from tests.cli.tiny_run import tiny
from tests.metrics import ablation_records
from tests.metrics.step_records import lost, ours, record, standard, variant
from tests.metrics.training_records import equal_tokens, selecting, to_target

CPU = ["data=synthetic", "trainer.accelerator=cpu"]


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What a command asks for; it is answered with the record under `answer`."""
    given = SimpleNamespace(answer=None)

    def instead(module, name, *arguments):
        def bench(*values, **named):
            vars(given).update(zip(arguments, values, strict=True), **named)
            path = tmp_path / "there" / "record.json"
            given.answer.write(path)
            return given.answer, path

        monkeypatch.setattr(module, name, bench)

    instead(steps, "bench_step", "overrides", "variants", "settings")
    instead(ablation, "bench_ablation", "overrides")
    instead(training, "bench_training", "question", "overrides", "settings", "variants")
    return given


@pytest.fixture
def rates(monkeypatch):
    monkeypatch.setattr(begin, "measured_rates", lambda *given, **named: RatesRecord(1e11, 1e10, 1e10))


@pytest.fixture
def asked_apart(monkeypatch):
    """The functions that were asked in processes of their own: the first of them, and the others are called here."""
    names = []

    def first_apart(program, asked, folder, **named):
        module, _, name = program[-1].partition(":")
        if names:
            return getattr(importlib.import_module(module), name)(json.loads(json.dumps(asked)))
        names.append(name)
        return ask(program, asked, folder, **named)

    monkeypatch.setattr(request, "ask", first_apart)
    return names


def test_two_variants_have_trained_alike_one_in_a_process_of_its_own(tmp_path, rates, asked_apart, capsys):
    words = [*tiny(tmp_path), "precision=fp32", "--variant", "standard", "--variant", "litespark"]
    words += ["--rounds", "1", "--steps", "2", "--warmup", "1", "--output", str(tmp_path / "results")]
    status = main(["bench", "step", *words])
    said = capsys.readouterr()
    assert status == 0, said.err
    assert asked_apart == ["measure"]
    (path,) = (tmp_path / "results").glob("*/*_bench-step_tiny_fp32.json")
    found = StepRecord.read(path)
    assert found.complete
    one, other = (each.measured[0].loss for each in found.variants)
    assert one == pytest.approx(other, rel=1e-3)
    assert found.protocol.data == "text.txt"
    assert str(tmp_path) not in path.read_text()
    assert "× tokens/s" in said.out
    assert f"record: {path}" in said.out


def test_a_profile_from_the_command_line(tmp_path, rates, asked_apart, capsys):
    asked_apart.append("none here, where the process of a step is enough")
    overrides = [each for each in tiny(tmp_path) if not each.startswith(("data.source", "data.vocab_size"))]
    words = ["data=synthetic", *overrides, "precision=fp32", "ops=reference"]
    assert main(["bench", "profile", *words, "--steps", "2", "--output", str(tmp_path / "results")]) == 0
    printed = capsys.readouterr().out
    (path,) = (tmp_path / "results").glob("*/*.json")
    assert path.with_suffix(".png").is_file()
    found = ProfileRecord.read(path)
    assert (found.variant, found.device_type, found.tokens) == ("litespark", "cpu", 2 * 4 * 32)
    assert found.provenance.command[:3] == ["litespark", "bench", "profile"]
    assert found.provenance.command[-4:] == ["--steps", "2", "--output", "…/results"]
    assert str(tmp_path) not in path.read_text()
    assert all(f"\n{each.kernel_class} " in printed for each in found.classes)


def test_all_variants_that_a_cpu_can_have_are_measured_unless_some_are_named(asked):
    asked.answer = record(standard(), ours())
    assert main(["bench", "step", *CPU]) == 0
    assert [each.name for each in asked.variants] == [*HUGGINGFACE, "litespark"]
    assert asked.settings == StepSettings(rounds=2, warmup_steps=2, steps=5, minutes=9.0)
    words = [*CPU, "--variant", "sdpa", "--variant", "mine:ops=reference optim.lr=0.1", "--layers", "2"]
    assert main(["bench", "step", *words]) == 0
    assert [each.name for each in asked.variants] == ["sdpa", "mine"]
    assert asked.settings.layers == 2
    assert asked.command == ["litespark", "bench", "step", *words]


def test_an_ablation_is_of_everything_plain_and_fast_unless_it_is_told(asked, capsys, tmp_path):
    asked.answer = ablation_records.record()
    assert main(["bench", "ablation", *CPU]) == 0
    assert asked.baseline == ["ops=reference", "recompute=full", "optim.fused=false"]
    assert asked.target == ["ops=litespark", "recompute=none", "optim.fused=true"]
    assert "target over baseline: tokens/s × 4.500" in capsys.readouterr().out
    assert (tmp_path / "there" / "record.png").is_file()
    words = ["--target", "ops=litespark ops.compile=block", "--rounds", "4", "--switch", "norm=ops.rms_norm,ops.rope",
             "--order", "norm,attention"]  # fmt: skip
    assert main(["bench", "ablation", *CPU, *words, "--output", "elsewhere"]) == 0
    assert asked.target == ["ops=litespark", "ops.compile=block"]
    assert (asked.grouped, asked.order) == (["norm=ops.rms_norm,ops.rope"], ["norm", "attention"])
    assert asked.settings.rounds == 4
    assert asked.command == ["litespark", "bench", "ablation", *CPU, *words, "--output", "elsewhere"]


def test_parity_has_a_bound_and_variants_one_by_one(asked, capsys, tmp_path):
    asked.answer = equal_tokens()
    words = ["model=tiny", "--bound", "0.004", "--seeds", "1,2", "--variant", "bf16", "--variant",
             "wide: optim.lr=1e-3", "--minutes", "5"]  # fmt: skip
    assert main(["bench", "parity", *words]) == 0
    assert (asked.question, asked.overrides) == (PARITY, ["model=tiny"])
    assert asked.settings == TrainingSettings(seeds=(1, 2), minutes=5.0, bound=0.004)
    assert asked.variants == [Variant("bf16", ("precision=bf16",)), Variant("wide", ("optim.lr=1e-3",))]
    assert asked.script.name == "train.py"
    assert asked.command == ["litespark", "bench", "parity", *words]
    assert "400.0 equal tokens" in capsys.readouterr().out
    assert (tmp_path / "there" / "record.png").is_file()


def test_the_target_is_an_option_or_an_override(asked):
    asked.answer = to_target()
    target = "budget.target_bpb=1.23456789"  # all digits: the run ends there, and the record repeats the command
    for words in (["--target-bpb", "1.23456789"], [target]):
        assert main(["bench", "to-loss", "model=tiny", *words]) == 0
        assert (asked.question, asked.overrides) == (TO_LOSS, ["model=tiny", target])
        assert asked.settings == TrainingSettings()
        assert asked.command == ["litespark", "bench", "to-loss", "model=tiny", *words]


def test_selection_has_a_corpus(asked, capsys):
    asked.answer = selecting()
    words = ["data=text", "data/selection=web", "--clean-bytes", "5000", "--planted", "0.5", "--planted-seed", "7"]
    assert main(["bench", "selection", *words]) == 0
    assert (asked.question, asked.overrides) == (SELECTION, words[:2])
    assert asked.settings.corpus == CorpusSettings(clean_bytes=5000, planted=0.5, planted_seed=7)
    assert "selected: dropped documents" in capsys.readouterr().out


def test_records_go_below_logs_and_into_results_only_when_published(asked, monkeypatch):
    asked.answer = record(standard(), ours())
    renewed = []
    monkeypatch.setattr(marks, "write_documents", lambda root: renewed.append(root) or [])
    assert main(["bench", "step", *CPU]) == 0
    assert asked.output == repository() / "logs" / "bench"
    assert renewed == []
    assert main(["bench", "step", *CPU, "--publish"]) == 0
    assert asked.output == repository() / "results"
    assert renewed == [repository()]
    assert main(["bench", "step", *CPU, "--publish", "--output", "elsewhere"]) == 2


def answers():
    """(benchmark, record, exit code, what is printed)"""
    yield "step", record(standard(), variant("litespark", lost(0, "failed", error="exploded"))), 1, "exploded"
    yield "step", record(standard(), variant("litespark", lost(0, "out of memory", "full"))), 0, "out of memory"
    yield "step", record(standard(), variant("litespark")), 0, "the same command continues"
    yield "ablation", ablation_records.record(plus_loss=[lost(0, "failed")]), 1, ""
    unfinished = ablation_records.record()
    unfinished.variants[0].rounds.clear()
    yield "ablation", unfinished, 0, "the same command continues"
    beyond = equal_tokens()
    beyond.bound = 0.003
    yield "parity", beyond, 1, ""
    without_a_run = to_target()
    without_a_run.variants[1].runs.pop()
    yield "to-loss", without_a_run, 1, ""


def test_a_failure_is_an_exit_code_and_what_is_missing_can_be_continued(asked, capsys):
    for what, asked.answer, status, printed in answers():
        assert main(["bench", what, *CPU]) == status
        assert printed in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["step", *CPU, "--layers", "99"], "--layers: got 99, expected at most the model's 4"),
        (["ablation", *CPU, "--target", "ops=litespark optim.lr=1"], "what is trained (optim.lr: 0.003 and 1)"),
        (["profile", *CPU, "--variant", "train.py"], "trainer.profile=true"),
        (["to-loss", "--target-bpb", "low"], "Invalid value for '--target-bpb'"),
        (["to-loss", "--seeds", "x"], "--seeds: got 'x'"),
        (["selection", "--seeds", "1,1"], "--seeds: got [1, 1], expected whole numbers, each once"),
        (["parity", "--seeds", "1,-1"], "--seeds: got -1, expected a whole number from 0"),
        (["parity", "--variant", "x"], "--variant: got 'x'"),
        (["selection", "--planted", "1e6"], "--planted: got 1000000.0, expected a number from 0 to 1000"),
    ],
)
def test_what_was_given_wrong_is_named_in_one_line_before_anything_is_measured(tmp_path, capsys, words, message):
    assert main(["bench", *words, "--output", str(tmp_path)]) in (1, 2)
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_make_publishes_when_it_is_asked_to():
    def commands(*words: str) -> str:
        command = ["make", "-n", *words, "PYTHON=python3"]
        return subprocess.run(command, cwd=repository(), capture_output=True, text=True, check=True, timeout=60).stdout

    for goal in ("bench", "bench-gpu-step", "bench-gpu-profile", "bench-gpu-parity"):
        plain = commands(goal)
        assert "--publish" not in plain
        assert "cli results" not in plain
        assert commands(goal, "PUBLISH=1").count("--publish") == plain.count("cli bench ") > 0


def test_kernels_are_a_table_and_one_that_does_not_fit_is_an_error(tmp_path, monkeypatch, capsys):
    def compiled(shared_bytes: int) -> Compiled:
        attempt = Attempt("norm_kernel", "norm", "sm_86", Resources(40, 0, shared_bytes), None, 0.5)
        table = Compiled("litespark kernels", (attempt,))
        monkeypatch.setattr(kernels, "compile_kernels", lambda *names, **options: table)
        return table

    output = tmp_path / "new" / "table.md"
    table = compiled(64)
    assert main(["kernels", "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"table: {output}\n"
    assert output.read_text() == page(table)
    compiled(200_000)
    assert main(["kernels"]) == 1
    said = capsys.readouterr()
    assert "takes 200000 bytes of shared memory on sm_86" in said.err
    assert "| norm_kernel |" in said.out
    # a folder that cannot be made is known before anything is compiled
    monkeypatch.setattr(kernels, "compile_kernels", lambda *names, **options: pytest.fail("it compiled"))
    assert main(["kernels", "--output", str(output / "table.md")]) == 1


def test_interpreted_kernels_are_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert main(["kernels"]) == 1
    said = "litespark kernels: TRITON_INTERPRET is set, so that kernels are interpreted and not compiled; unset it\n"
    assert capsys.readouterr().err == said
