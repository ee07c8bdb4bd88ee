"""The tables of docs/scaling.md are what `litespark plan` computes now."""

import re
import shlex
from pathlib import Path

import pytest

from litespark.benchmarks.ranks import plan_ranks
from litespark.cli import COMMANDS, main
from litespark.planning.ranks import Layout
from litespark.reports.ranks import table

ONE = "experiment=llama30b_litespark strategy=fsdp strategy.accumulate=whole --nodes 8"
PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
# a command in a block of its own, and the table below it
PLANS = re.compile(r"(^```\nlitespark plan ([^\n]*)\n```\n\n)((?:\|[^\n]*\n)*)", flags=re.MULTILINE)


def planned(words: str) -> str:
    """The rows of a plan as Markdown."""
    given = COMMANDS["plan"].make_context("plan", shlex.split(words)).params
    plans, about, flops = plan_ranks(given["overrides"], Layout(given["nodes"], given["gpus_per_node"]), print)
    lines = table(plans, about=about, flops=flops).markdown().splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith("|"))


FOUND = PLANS.findall(PAGE.read_text())


@pytest.mark.parametrize(
    "words, rows",
    [pytest.param(words, rows, marks=[pytest.mark.slow] * (words != ONE)) for _, words, rows in FOUND],
)
def test_a_table_of_the_page_is_what_is_planned_now(words, rows):
    assert rows
    assert rows == planned(words)


@pytest.mark.parametrize(
    "words, complaint",
    [
        (
            "strategy=fsdp --nodes 16",
            "trainer.global_batch_size: got 8 and 128 processes, expected a multiple of 128; set tr",
        ),
        ("strategy=hsdp strategy.shard=3", "strategy.shard: got 3, expected a number that divides the 8 processes"),
        pytest.param("strategy=tp --gpus-per-node 3", "=4, which 3 ranks cannot share equally", marks=pytest.mark.slow),
        pytest.param("adapter=lora", "adapter: got one, expected adapter=none", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_planned_is_refused_with_advice(words, complaint, capsys):
    assert main(["plan", *words.split()]) == 1
    assert complaint in capsys.readouterr().err


@pytest.mark.slow
def test_a_plan_of_one_gpu_sends_nothing_and_is_in_fp32_where_that_is_asked(capsys):
    assert main(["plan", "precision=fp32", "data=synthetic", "--gpus-per-node", "1"]) == 0
    said = capsys.readouterr().out
    assert "1 x 1 GPUs" in said
    assert "fp32, recompute none" in said
    (row,) = [line.split() for line in said.splitlines() if line.startswith("single ")]
    assert row[-7:-1] == ["0"] * 6
