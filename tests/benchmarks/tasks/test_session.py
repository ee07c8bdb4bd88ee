"""`litespark bench tasks` on a model of a few thousand parameters: what its processes count, and what is made of it."""

import dataclasses
import itertools
import math

import pytest

from litespark.benchmarks.tasks import process, session
from litespark.benchmarks.tasks.session import TaskSettings, bench_tasks
from litespark.benchmarks.tasks.variants import chosen
from litespark.child_process import ChildError
from litespark.config.settings import SettingsError
from litespark.metrics.records.tasks import TaskRound, TasksRecord
from litespark.metrics.step_round import Interval
from litespark.models.llama.huggingface import export_huggingface
from litespark.reports.table import text
from litespark.reports.tasks import compared, failures, ratio, rows, tables
from litespark.run.config import ConfigError
from tests.data.examples.chats import write_lines, write_tokenizer
from tests.metrics.tasks_records import task_round, tasks_record
from tests.models.small import small_model

SEQ_LEN, STEPS, NEW = 96, 2, 5


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    """A model with its tokenizer, and records that every task reads; completions differ in length."""
    folder = tmp_path_factory.mktemp("tasks")
    write_tokenizer(folder / "tokenizer", eos="<|endoftext|>")
    model = small_model(vocab_size=280, hidden_size=32, num_layers=2, max_seq_len=128, init_std=0.02)
    export_huggingface(model, folder / "model", tokenizer=folder / "tokenizer", eos_id=0)
    answers = ["yes", "no, never", "the answer is not known", "who asks?"]
    records = [
        {"prompt": f"what is {number}? ", "completion": one, "chosen": one, "rejected": f"{another}!"}
        for number, (one, another) in enumerate(itertools.islice(itertools.permutations(answers * 2, 2), 40))
    ]
    source = write_lines(folder / "records.jsonl", records)
    return [
        *(f"model.path={folder / 'model'}", f"data.source={source}", f"data.root={folder}", f"paths.logs={folder}"),
        *(f"data.seq_len={SEQ_LEN}", "data.micro_batch_size=2", "trainer.global_batch_size=2"),
        *("data.validation_fraction=0.1", "trainer.accelerator=cpu", "metrics.probe_seconds=0"),
    ]


def taken(overrides, name, monkeypatch):
    """What the process of a variant answers."""
    asked = []
    monkeypatch.setattr(session, "ask", lambda program, request, folder, seconds: asked.append(request) or {})
    monkeypatch.setitem(session.OF_TASK, "grpo", (*session.OF_TASK["grpo"][:-2], f"task.max_new_tokens={NEW}",
                                                  "task.rewards={length: 1.0}", "task.num_generations=3"))  # fmt: skip
    settings = TaskSettings(rounds=1, steps=STEPS)
    output = overrides[3].partition("=")[2]
    bench_tasks(overrides, settings, variants=[name], command=["x"], output=session.Path(output, "out"), say=print)
    return TaskRound(**process.measure(asked[-1]))


@pytest.mark.parametrize("name", ["sft", "dpo", "grpo"])
def test_steps_of_ours_are_counted(overrides, name, monkeypatch):
    found = taken(overrides, name, monkeypatch)
    assert len(found.seconds) == STEPS
    assert len(found.losses) == STEPS + 1
    assert found.places % (SEQ_LEN * STEPS) == 0
    assert found.tokens <= found.places
    assert found.optimizer_bytes > 0
    if name == "grpo":
        assert (found.examples, found.completions) == (2 * STEPS, 6 * STEPS)
        assert found.tokens == found.completions * NEW
        assert all(0 < rollout < whole for rollout, whole in zip(found.rollout_seconds, found.seconds, strict=True))
    else:
        assert found.losses[0] == pytest.approx({"sft": math.log(280), "dpo": math.log(2)}[name], rel=0.02)
        assert found.losses[-1] != found.losses[0]
        assert found.rollout_seconds == []
        assert found.tokens > 0.5 * found.places


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "theirs"), [("sft", "sft_trl"), ("sft", "sft_trl_padded"), ("dpo", "dpo_trl"), ("grpo", "grpo_trl")]
)
def test_trl_takes_the_same_steps(overrides, ours, theirs, monkeypatch):
    pytest.importorskip("trl")
    mine, its = taken(overrides, ours, monkeypatch), taken(overrides, theirs, monkeypatch)
    for counted in ("examples", "tokens", "completions", "examples_hash"):
        assert getattr(mine, counted) == getattr(its, counted)
    if ours != "grpo":
        assert its.losses == pytest.approx(mine.losses, rel=1e-5)
    assert its.places >= its.tokens


def test_variants_take_turns_and_one_that_failed_is_tried_by_the_next_start(overrides, tmp_path, monkeypatch):
    asked = []

    def answer(program, request, folder, seconds):
        asked.append(request["variant"])
        if len(asked) == 2:
            raise ChildError("ended with status 1: no memory")
        return dataclasses.asdict(task_round(request["variant"], request["round"], request["position"]))

    monkeypatch.setattr(session, "ask", answer)

    def start():
        settings = TaskSettings(rounds=2, steps=2)
        named = {"variants": ["sft", "sft_lora", "dpo"], "command": ["x"], "output": tmp_path, "say": print}
        return bench_tasks(overrides, settings, **named)

    record, path = start()
    assert asked == ["sft", "sft_lora", "dpo", "dpo", "sft"]
    assert failures(record) == {"sft_lora": "failed: ended with status 1: no memory"}
    again, same = start()
    assert same == path
    assert asked[5:] == ["sft_lora", "sft_lora"]
    assert again.complete
    assert TasksRecord.read(path) == again


def test_ratios_are_of_the_same_round_and_of_those_that_trained_alike():
    record = tasks_record()
    assert compared(record) == [("dpo", "dpo_trl"), ("sft", "sft_trl"), ("sft_lora", "sft")]
    over_trl = ratio(record, "dpo", "dpo_trl")
    assert over_trl.tokens_per_second == Interval(1.75, 1.5, 2.0, 2)
    assert over_trl.places_per_example.median == 0.5
    assert over_trl.memory.median == 0.5
    assert over_trl.joules_per_token is None
    assert ratio(record, "sft_lora", "sft").tokens_per_second.median == 2.0
    assert ratio(record, "sft", "sft_trl") == "trained differently: mean losses 4.0000 and 4.5000"
    assert rows(record)["dpo_trl"].places_per_example.median == 220
    shown = text(tables(record))
    assert "no ratio: trained differently" in shown
    assert "J/token: no counter" in shown
    assert ratio(tasks_record("dpo"), "dpo", "dpo_trl") == "dpo_trl is not part of this benchmark"


def test_names_that_are_no_variants_are_refused():
    with pytest.raises(ConfigError, match="--variant: got ppo, expected some of sft, sft_lora"):
        chosen(["sft", "ppo"])
    with pytest.raises(SettingsError, match="--steps"):
        TaskSettings(steps=0)
