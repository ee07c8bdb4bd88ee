"""What composing adds to Hydra: words that are no settings, the budget that counts, and settings of another choice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args, get_origin

import pytest
from hydra import compose, initialize_config_dir

from litespark.cli import main
from litespark.config import groups
from litespark.config.settings import fields_of
from litespark.run.command_line import ordered
from litespark.run.composing import OWN_KEYS, compose_parts
from litespark.run.config import Parts
from litespark.run.hydra_settings import CompositionError
from litespark.run.targets import ConfigError
from litespark.training.optim import MuonConfig
from tests.run.composed import CONFIGS, parts

EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
# what experiments and debug settings are laid over; one choice needs a folder
GROUPS = {
    group: sorted(path.stem for path in (CONFIGS / group).glob("*.yaml") if path.stem != "huggingface")
    for group in (
        each.relative_to(CONFIGS).as_posix()
        for each in sorted(CONFIGS.rglob("*"))
        if each.is_dir() and each.name not in ("experiment", "hydra", "sweep")
    )
}
MEANT = {
    "+lr=1e-3": "set optim.lr=0.001",
    "+optim@teacher=adamw": "teacher: got",
    "optim.learning_rate=1e-3": "set optim.lr=1e-3",
    "model.hiden_size=64": "set model.hidden_size=64",
    "model=llama170m": "choose model=llama160m",
    "model.rope_scaling.layers=8": "model.rope_scaling.layers: got 8, but there is no such setting",
    "seed.x=1": "seed.x: got 1, but there is no such setting",
    "nope=3": "nope: got 3, but there is no such setting; take it out",
    "experiment=llama3b": "or experiment=llama3b_grpo or experiment=llama3b_litespark",
    "+experiment=llama160m": "write experiment=CHOICE",
    "selection=web": "set data/selection=web",
    "data/selection=web": "got data/selection=web, but what is chosen has no data/selection",
    "experiment=null": "or ~experiment for none",
    "hydra/launcher=submitit": "got hydra/launcher=submitit",
    "optim=adam": "choose optim=adamw",
    "trainer.max_steps=10": "set budget.steps=10",
    "trainer.max_epochs=1": "set budget.tokens=TOKENS or budget.steps=STEPS",
    "trainer.precision=bf16-mixed": "set precision=bf16",
    "trainer.accumulate_grad_batches=4": "set trainer.global_batch_size and data.micro_batch_size",
    "trainer.fast_dev_run=true": "choose debug=limit",
    "training.steps=10": "set budget.steps=10",
    "batch_size=8": "set trainer.global_batch_size (sequences of a step, over all devices) or data.micro_batch_size",
    "ckpt_path=logs/runs/x": "set resume=logs/runs/x",
    "schedule.decay=0.1": "a setting of schedule=wsd, which is not chosen",
    "optim.lr": "expected key=value",
    "optim.lr=1,2": "give -m to sweep over several",
    "name=a(b": "'name=\"a(b\"'",
    "hydra.job.nmae=x": "'nmae' not in 'JobConf'",
}


@pytest.mark.parametrize("override", MEANT)
def test_a_word_that_is_no_setting_is_answered_with_the_one_that_was_meant(override):
    with pytest.raises(ConfigError, match=re.escape(MEANT[override])) as caught:
        parts(override)
    assert len(str(caught.value).splitlines()) <= 7


def test_a_size_beside_a_folder_is_answered_with_where_the_sizes_come_from():
    with pytest.raises(ConfigError, match=r"hidden_size=128, but model=huggingface has the name and sizes"):
        parts("model=huggingface", "model.path=FOLDER", "model.hidden_size=128")


def test_all_words_that_are_no_settings_are_answered_together():
    with pytest.raises(CompositionError) as caught:
        parts("optim.learning_rate=1", "trainer.max_steps=3", "model=tny")
    lines = str(caught.value).splitlines()[1:]
    assert [line.rpartition("; ")[2] for line in lines] == ["choose model=tiny", "set optim.lr=1", "set budget.steps=3"]


def test_a_share_of_a_domain_may_be_set_alone():
    assert parts("data.mixture.web=0.5").data.mixture == {"web": 0.5}


def test_a_key_in_a_file_is_answered_too(tmp_path):
    with pytest.raises(ConfigError, match=r"lr: got .*, but there is no such setting; set optim.lr="):
        of_file(tmp_path, "lr: 1e-3")
    assert of_file(tmp_path, "lr: 1e-3\noptim: {lr: '${lr}'}").optim.lr == 1e-3, "a value that is referred to is read"


def test_a_sweep_with_a_word_that_is_no_setting_is_refused_before_it_makes_a_folder(tmp_path, capsys):
    words = ["-m", "data=synthetic", "optim.lr=0.1,0.2", "+foo=1", f"paths.logs={tmp_path}"]
    assert main(["train", *words]) == 1
    said = capsys.readouterr()
    assert said.err.count("foo: got 1, but there is no such setting") == 1
    assert "Sweep of" not in said.out
    assert not list(tmp_path.iterdir())


FLAGS = {
    "--seed 1": "got --seed 1, expected key=value; write seed=1",
    "seed 1": "got seed 1, expected key=value; write seed=1",
    "seed = 1": "write seed=1",
    "--optim.lr 1e-3": "write optim.lr=1e-3",
    "--learning-rate 1e-3": "set optim.lr=1e-3",
    "--config my.yaml": "write an experiment",
}


@pytest.mark.parametrize("words", FLAGS)
@pytest.mark.parametrize("command", ["train", "bench step"])
def test_a_flag_that_is_none_is_answered_the_same_by_train_and_by_other_commands(command, words, capsys):
    assert main([*command.split(), "data=synthetic", *words.split()]) == 1
    said = capsys.readouterr().err
    assert FLAGS[words] in said
    assert len(said.strip().splitlines()) == 1


def test_hydras_flags_may_stand_anywhere():
    words = ["seed=1", "-m", "optim.lr=1,2", "--config-dir", "folder", "--cfg=job", "-h"]
    assert ordered(words) == ["-m", "--config-dir", "folder", "--cfg=job", "-h", "seed=1", "optim.lr=1,2"]
    assert ordered(["--info", "seed=1"]) == ["--info", "seed=1"]
    assert ordered(["--info", "searchpath", "seed=1"]) == ["--info", "searchpath", "seed=1"]


@pytest.mark.parametrize(
    ("overrides", "tokens", "steps"),
    [
        (("budget.steps=10",), None, 10),
        (("budget={steps:10}",), None, 10),
        (("debug=limit", "budget.tokens=5000"), 5000, None),
        (("debug=limit", "budget.steps=7"), None, 7),
        (("budget.tokens=2.5e9",), 2_500_000_000, None),
        (("budget.steps=1e1", "budget.tokens=null"), None, 10),
    ],
)
def test_the_length_that_was_given_last_counts(overrides, tokens, steps):
    budget = parts(*overrides).budget
    assert (budget.tokens, budget.steps) == (tokens, steps)
    assert type(tokens or steps) is type(budget.tokens or budget.steps) is int


def test_of_two_lengths_on_one_command_line_none_is_chosen():
    with pytest.raises(ValueError, match="got tokens and steps, expected one"):
        parts("budget.steps=10", "budget.tokens=1000")
    with pytest.raises(ConfigError, match=r"budget\.tokens: got 1\.5, expected a whole number"):
        parts("budget.tokens=1.5")


def of_file(folder: Path, text: str, *overrides: str) -> Parts:
    """The parts of an experiment of that text."""
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    return parts(f"hydra.searchpath=[{folder}]", "experiment=mine", *overrides)


def test_a_setting_of_an_experiment_for_its_own_choice_is_left_out_of_another_with_a_line(tmp_path, caplog):
    text = "defaults: [override /schedule: wsd]\nschedule: {decay: 0.4, warmup: 0.1}"
    assert of_file(tmp_path, text).schedule.decay == 0.4
    assert not caplog.messages
    assert of_file(tmp_path, text, "schedule=cosine").schedule.warmup == 0.1
    left_out = "schedule.decay=0.4 is left out: kind cosine of schedule has no such setting"
    assert caplog.messages == [left_out]
    with pytest.raises(ConfigError, match=r"schedule\.dcay: got 0.4, but there is no such setting"):
        of_file(tmp_path, "schedule: {dcay: 0.4}")
    with pytest.raises(ConfigError, match=r"optim\.fused=true, a setting of optim=adamw, which is not chosen"):
        parts("optim=muon", "optim.fused=true")


@pytest.mark.parametrize(
    "experiment",
    [
        pytest.param(name, marks=() if name in ("quickstart", "llama8b_litespark") else pytest.mark.slow)
        for name in EXPERIMENTS
        if not name.endswith("_baseline")
    ],
)
def test_every_choice_of_every_group_composes_with_every_experiment(experiment):
    """The n-th choices of all groups together, so that each pair is composed once; what a `_baseline` sets, its
    `_litespark` sets too."""
    for index in range(max(map(len, GROUPS.values()))):
        names = {group: choices[index % len(choices)] for group, choices in GROUPS.items()}
        if names["task"] == "reward":  # an adapter would leave its head as it was drawn
            names["adapter"] = "none"
        chosen = [f"{group}={name}" for group, name in names.items()]
        if names["data"] in (
            "synthetic",
            "conversations",
            "examples",
            "pairs",
            "prompts",
            "rated",
        ):  # no text to select
            chosen = [word for word in chosen if not word.startswith("data/")]
        needed = ["data.source=FOLDER"] if names["data"] in ("text", "examples") else []
        needed += ["task.rewards={parses: 1.0}"] if names["task"] == "grpo" else []
        made = compose_parts([f"experiment={experiment}", *chosen, *needed])
        assert made.model.name == names["model"]
        assert made.strategy.name == names["strategy"]


def test_whole_numbers_and_gpu_as_others_write_them():
    made = parts("seed=1e3", "trainer.global_batch_size=3.2e1", "trainer.accelerator=gpu", "data.seq_len=64.0")
    assert (made.seed, made.trainer.global_batch_size, made.data.seq_len) == (1000, 32, 64)
    assert made.trainer.accelerator == "gpu"
    assert type(made.resolved["trainer"]["global_batch_size"]) is int


def test_a_sweep_over_fused_runs_with_an_optimizer_that_has_no_such_setting():
    """So that `sweep=ops_ablation optim=muon` runs."""
    made = parts("optim=muon", "variant={label:target,ops:{rope:reference},optim:{fused:true}}")
    assert isinstance(made.optim, MuonConfig)
    assert made.ops.rope == "reference"


@pytest.mark.parametrize("word", ["hydra.sweeper.params={seed:'1,2'}", "hydra.sweeper.params.seed='1,2'"])
def test_what_is_swept_may_stand_below_hydra_on_the_command_line(word):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert compose("train", overrides=[word], return_hydra_config=True).hydra.sweeper.params == {"seed": "1,2"}


def test_settings_with_keys_of_the_users_own_are_those_whose_class_takes_any():
    mappings = {
        f"{group}.{name}"
        for group in groups.GROUPS
        for kind in groups.classes_of(group).values()
        for name, field in fields_of(kind).items()
        if dict in map(get_origin, (field.annotation, *get_args(field.annotation)))
    }
    assert mappings == {*OWN_KEYS} - {"hydra.sweeper.params"}
