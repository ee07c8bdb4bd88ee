"""One rank works and the others wait: here each rank is a thread, over the same store."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from litespark.training import first_rank
from litespark.training.first_rank import RankError, from_first, from_ranks


@pytest.fixture
def ranks(monkeypatch):
    """A function that calls another on three ranks; returns what comes of it on each."""
    mine = threading.local()
    store = dist.HashStore()
    numbers = iter(range(100))
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    monkeypatch.setattr(dist, "get_rank", lambda: mine.rank)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(first_rank, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(first_rank, "_POLL_SECONDS", 0.01)

    def run(call: Callable[[], Any]) -> list[Future[Any]]:
        number = next(numbers)
        monkeypatch.setattr(first_rank, "_numbers", iter([number] * 3))  # each process counts for itself

        def as_rank(rank: int) -> Any:
            mine.rank = rank
            return call()

        with ThreadPoolExecutor(3) as pool:
            return [pool.submit(as_rank, rank) for rank in range(3)]

    return run


def test_all_ranks_get_what_the_first_made_however_long_it_takes(ranks, monkeypatch, caplog):
    counts = itertools.count()  # in place of seconds, so that a busy machine is not taken for a silent rank
    monkeypatch.setattr(first_rank, "time", SimpleNamespace(monotonic=lambda: next(counts), sleep=time.sleep))
    monkeypatch.setattr(first_rank, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(first_rank, "SILENT_SECONDS", 400)
    monkeypatch.setattr(first_rank, "SAID_AFTER_SECONDS", 100)
    for name in ("STEP_ID", "STEP_NUM_TASKS", "PROCID", "LOCALID"):  # the third task of srun on this machine
        monkeypatch.setenv(f"SLURM_{name}", {"STEP_ID": "0", "STEP_NUM_TASKS": "3"}.get(name, "2"))
    made = []

    def make() -> str:
        while next(counts) < 1000:  # longer than a silence is borne: its signs of life are what the others go by
            time.sleep(0.001)
        made.append(1)
        return "folder"

    assert [each.result() for each in ranks(lambda: from_first(make, "the data to be prepared"))] == ["folder"] * 3
    assert made == [1]
    assert caplog.messages == ["waiting for the data to be prepared on rank 0, without a time-out"]


def test_several_ranks_work_at_once_and_all_get_every_result(ranks):
    answers = ranks(lambda: from_ranks([0, 2], dist.get_rank, "their numbers"))
    assert [each.result() for each in answers] == [[0, 2]] * 3


class Unpicklable(ValueError):
    def __init__(self, *, needed: int) -> None:
        super().__init__(f"needed {needed}")


@pytest.mark.parametrize(
    ("error", "elsewhere", "match"),
    [
        (ValueError("no such file"), ValueError, "^no such file$"),
        (Unpicklable(needed=3), RankError, "rank 0 stopped: Unpicklable: needed 3"),
        (KeyboardInterrupt(), RankError, "rank 0 stopped: KeyboardInterrupt"),
    ],
)
def test_an_error_of_the_first_rank_ends_the_wait_of_all(ranks, error, elsewhere, match):
    def make() -> None:
        raise error

    first, *others = ranks(lambda: from_first(make, "the data"))
    with pytest.raises(type(error)):
        first.result()
    for other in others:
        with pytest.raises(elsewhere, match=match):
            other.result()


def test_a_first_rank_without_a_sign_of_life_is_given_up(ranks, monkeypatch):
    monkeypatch.setattr(first_rank, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr(first_rank, "_send", lambda *_: "killed, and never answered")
    _, *others = ranks(lambda: from_first(lambda: None, "the data"))
    for other in others:
        with pytest.raises(RankError, match=r"no sign of life .* waiting for the data on rank 0"):
            other.result()


def test_one_process_just_does_it():
    assert from_first(lambda: 7, "a number") == 7
