"""The tables of bench data say what was measured, which goals were met, and what is absent and why."""

from dataclasses import replace

from litespark.metrics.records.data import ENCODE, OURS, MemoryRun
from litespark.reports.data_text import goals, markdown, text
from litespark.reports.ledger import render
from tests.metrics.data_records import STREAMS, data_record


def line(said: str, start: str) -> str:
    return " ".join(next(each for each in said.splitlines() if each.startswith(start)).split())


def test_rows_hold_the_medians_of_the_rounds():
    said = text(data_record())
    # 1000 tokens in 9 and 12 s, 5 MB in 10.5 s
    assert line(said, "bare tokenizer     1 ") == "bare tokenizer 1 97.22 0.4762 9.2 s 100.0 MB"
    assert line(said, "litgpt             2 ") == "litgpt 2 75.75 0.3750 20.0 s 100.0 MB"
    assert line(said, "litespark  2 ") == "litespark 2 yes 7.000 M 200 ms"
    assert line(said, "litespark  in process  no ") == "litespark in process no 80.00 M 10 ms"
    assert "10 documents and 8 shards of .jsonl.zst, vocabulary 32,000, a CPU, 2 cores, 2 rounds\n" in said


def test_goals_are_told_with_their_range_and_verdict():
    assert goals(data_record()) == [
        "share of the bare tokenizer on 1 core: 0.950 (0.900 to 1.00); goal at least 0.85: met; of processor time "
        "0.949 (0.947 to 0.950)",
        "share of the bare tokenizer on 2 cores: 0.775 (0.750 to 0.800); goal at least 0.85: NOT met; of processor "
        "time 0.818 (0.818 to 0.818)",
        "over litgpt 0.5.13 with LitData 0.2.76: 2.22 (2.22 to 2.22); goal at least 1.5: met",
        "peak memory of a process with 1 and 4 times the text: 100.0 MB and 110.0 MB, ratio 1.10; goal at most 1.15: "
        "met",
        "tokens/s through 2 workers: 7.000 M; goal at least 5.000 M: met (7.000 M to 7.000 M)",
        "cost of shuffling in process: 25.0 % of the rate",
    ]


def test_goals_that_are_missed_say_so():
    slow = data_record(streams=[(*each[:3], each[3] // 2, each[4]) for each in STREAMS])
    slow.memory[1] = MemoryRun(4, 24.0, 4040, 120_000_000)
    said = "\n".join(goals(slow))
    assert "3.500 M; goal at least 5.000 M: NOT met" in said
    assert "ratio 1.20; goal at most 1.15: NOT met" in said


def test_a_verdict_is_that_of_the_median_not_of_the_best_round():
    record = data_record()
    places = {(run.variant, run.cores, run.round): place for place, run in enumerate(record.preparation)}
    place = places[ENCODE, 2, 1]
    record.preparation[place] = replace(record.preparation[place], seconds=5.4)
    place = next(place for place, run in enumerate(record.streaming) if (run.reader, run.workers) == (OURS, 2))
    record.streaming[place] = replace(record.streaming[place], tokens=4_000_000)
    said = "\n".join(goals(record))
    assert "on 2 cores: 0.825 (0.750 to 0.900); goal at least 0.85: NOT met" in said
    assert "through 2 workers: 4.500 M; goal at least 5.000 M: NOT met (2.000 M to 7.000 M)" in said


def test_what_is_absent_says_why_and_is_never_a_number():
    record = replace(data_record(litgpt=False), memory=[], streaming=[], complete=False)
    said = text(record)
    assert "over litgpt: not measured (it is not installed)" in said
    assert "memory: not measured" in said
    assert "tokens/s through 2 workers: not measured; goal at least 5.000 M: not measured" in said
    assert "2 rounds, NOT complete" in said


def test_the_report_has_the_same_cells():
    said = markdown(data_record())
    assert "| litespark prepare | 2 | 168.3 | 0.8333 | 11.0 s | 100.0 MB |" in said
    assert "- tokens/s through 2 workers: 7.000 M" in said


def test_the_ledger_shows_the_goals(tmp_path):
    path = tmp_path / "a-cpu" / "2026-01-31_bench-data_installed-packages_uint16.json"
    data_record().write(path)
    said = render(tmp_path)
    assert "### Preparing and reading data" in said
    assert "- over litgpt 0.5.13 with LitData 0.2.76: 2.22" in said
