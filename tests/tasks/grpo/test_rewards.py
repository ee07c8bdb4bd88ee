"""Rewards: ours say what they say, and each way to fail leaves a group out under its reason."""

import sys

import pytest

from litespark.tasks.grpo.rewards import REASONS, REWARDS, Group
from litespark.tasks.grpo.scoring import Scorer

_OWN = """
import os, time
def first(prompts, completions, columns):
    print("said while it runs")
    os.fork()  # and comes back twice
    return [column["bonus"] + len(text) for text, column in zip(completions, columns)]
def raised(prompts, completions, columns): raise KeyError("no such column")
def hung(prompts, completions, columns): time.sleep(60 if columns[0]["bonus"] else 0); return [1.0] * len(prompts)
def crashed(prompts, completions, columns): os._exit(3)
def not_finite(prompts, completions, columns): return [1.0, float("nan")]
def wrong_length(prompts, completions, columns): return [1.0]
"""


def test_ours_look_at_the_completion():
    texts = ["def f(a, b):\n    return a", "def f(a,b) :\n  return (", "", "# a remark"]
    columns = [{"signature": "def f(a, b):"}] * 4
    assert REWARDS["parses"](texts, texts, columns) == [1, 0, 0, 0]
    assert REWARDS["keeps_signature"](texts, texts, columns) == [1, 1, 0, 0]
    assert REWARDS["keeps_signature"](["p"], ["def  g(a, b):"], columns[:1]) == [0.3]
    assert REWARDS["length"](texts, ["", "x" * 250, "x" * 2000, "x"], columns) == [1, 0.75, 0, 0.999]


def test_a_reward_that_fails_leaves_its_group_out_under_its_reason(tmp_path, monkeypatch):
    (tmp_path / "own_rewards.py").write_text(_OWN)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(filter(None, sys.path))}")
    groups = [Group("p", ["a", "bcd"], {"bonus": bonus}) for bonus in (0.0, 1.0)]
    for reason in REASONS:
        scorer = Scorer({"own_rewards.first": 0.5, f"own_rewards.{reason}": 2.0}, seconds=0.3)
        scores = scorer(groups)
        scorer.close()
        left = 1 if reason == "hung" else 2
        assert dict(scores.left_out) == {reason: left}
        assert scores.rewards.isnan().all(1).tolist() == [left == 2, True]
        if reason == "hung":  # the group before it has its rewards, and so have later ones, of a new process
            assert scores.rewards[0].tolist() == [0.5 * 1 + 2, 0.5 * 3 + 2]
    scorer = Scorer({"own": 1.0, "parses": 0.0}, seconds=10, own={"own": lambda group: [3.0, 4.0]})
    assert scorer(groups).rewards.tolist() == [[3, 4], [3, 4]]
    scorer.close()


def test_a_name_that_is_no_function_is_refused_before_it_is_called():
    for name in ("json.absent", "absent", "absent.module.function"):
        scorer = Scorer({name: 1.0}, seconds=1)
        with pytest.raises(ValueError, match=rf"task.rewards: got {name}, expected parses, .*(no|No|has no) .*absent"):
            scorer.check()
        scorer.close()
