"""From the command's words to a record; the processes are played by a function, and once they are real ones."""

import importlib
import json

import pytest

from litespark.benchmarks.child_process import ask
from litespark.benchmarks.data import corpus, preparation, rounds, session, streaming
from litespark.benchmarks.data.rounds import CASES, DataSettings
from litespark.benchmarks.data.session import NO_LITGPT, bench_data, with_defaults
from litespark.cli import main
from litespark.metrics.records.data import LITGPT, OURS, DataRecord
from litespark.run import new_record as provenance_module

OVERRIDES = ["data.vocab_size=300", "data.seq_len=64"]
SETTINGS = {"rounds": 2, "megabytes": 0.05, "seconds": 0.05}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(provenance_module, "source_hash", lambda *folders: "0123456789abcdef")
    monkeypatch.setattr(session, "_TOKENIZER_DOCUMENTS", 20)
    monkeypatch.setattr(corpus, "_VALIDATION_DOCUMENTS", 6)
    monkeypatch.setattr(rounds, "usable_cores", lambda: 2)
    monkeypatch.setattr(session, "usable_cores", lambda: 2)
    monkeypatch.setattr(rounds, "find_spec", lambda name: None)


class Processes:
    """Answers of processes that were never started."""

    def __init__(self, litgpt_error=None):
        self.asked = []
        self.litgpt_error = litgpt_error

    def __call__(self, program, request, folder, *, seconds, environment):
        name, cores = program[-1].rpartition(":")[2], request["cores"]
        assert environment == {"RAYON_NUM_THREADS": str(cores), "OMP_NUM_THREADS": "1"}
        if name.endswith("litgpt_script.py"):
            self.asked.append(("litgpt", cores, program))
            if self.litgpt_error:
                raise ValueError(self.litgpt_error)
            tokens = self.written() * self.record.training_bytes // self.record.text_bytes
            return {**self.pass_of(tokens), "version": "9.9", "litdata": "8.8"}
        self.asked.append((name, cores, request))
        if name == "stream":
            return [{"tokens": 100, "seconds": 1.0, "first_batch_seconds": 0.1} for _ in request["cases"]]
        return {**self.pass_of(self.written() if name == "prepare_corpus" else 1000), "folder": "somewhere"}

    def written(self):
        return 1000 + self.record.documents

    def pass_of(self, tokens):
        return {"seconds": 2.0, "cpu_seconds": 2.0, "tokens": tokens, "peak_bytes": 10}


def bench(folder, processes, monkeypatch, **changes):
    real = corpus.write_corpus

    def remembered(*given, **named):
        processes.record = real(*given, **named)
        return processes.record

    monkeypatch.setattr(corpus, "write_corpus", remembered)
    return bench_data(
        OVERRIDES,
        DataSettings(**(SETTINGS | changes)),
        command=["litespark", "bench", "data"],
        output=folder,
        say=lambda line: None,
        ask=processes,
    )


def test_all_take_turns_and_every_second_round_is_backwards(tmp_path, monkeypatch):
    processes = Processes()
    record, path = bench(tmp_path, processes, monkeypatch, litgpt_python="/somewhere/python")
    assert DataRecord.read(path) == record
    assert record.complete
    assert path.name.endswith("_bench-data_installed-packages_uint16.json")
    assert record.litgpt == "9.9 with LitData 8.8"
    turns = [(each[0], each[1]) for each in processes.asked]
    first = [("encode", 1), ("prepare_corpus", 1), ("encode", 2), ("prepare_corpus", 2), ("litgpt", 2)]
    assert turns == [*first, *first[::-1], *[("prepare_corpus", 2)] * 4, ("stream", 2), ("stream", 2)]
    streams = [each[2]["cases"] for each in processes.asked if each[0] == "stream"]
    assert [tuple(case.values()) for case in streams[0]] == list(CASES)
    assert streams[1] == streams[0][::-1]
    assert len(record.streamed(OURS, 2)) == 2


def test_what_is_prepared_is_the_whole_text_with_the_same_tokenizer(tmp_path, monkeypatch):
    processes = Processes()
    record, _ = bench(tmp_path, processes, monkeypatch)
    configs = [each[2]["config"] for each in processes.asked if each[0] == "prepare_corpus"]
    assert len({config["root"] for config in configs}) == len(configs)  # nothing is found ready
    assert {config["tokenizer"] for config in configs} == {configs[0]["tokenizer"]}
    assert {config["processes"] for config in configs} == {1, 2}
    assert all(not config["selection"]["quality"] and config["max_bytes"] is None for config in configs)
    on_all = [config["unit_bytes"] for config in configs if config["processes"] == 2]
    assert on_all[:4] == [record.unit_bytes] * 4
    assert 2 * record.unit_bytes < record.corpus.text_bytes
    assert record.litgpt is None
    assert record.litgpt_reason == NO_LITGPT


def test_a_litgpt_that_fails_is_a_reason_and_not_the_end(tmp_path, monkeypatch):
    processes = Processes(litgpt_error="ended with status 1: No module named litgpt in /home/me/python")
    record, path = bench(tmp_path, processes, monkeypatch, litgpt_python="/somewhere/python")
    assert record.complete
    assert record.litgpt is None
    assert record.litgpt_reason == "ended with status 1: No module named litgpt in …/python"
    assert not record.prepared(LITGPT, 2)
    assert [each[0] for each in processes.asked].count("litgpt") == 1
    assert DataRecord.read(path) == record


def test_what_was_measured_is_kept_where_a_later_process_fails(tmp_path, monkeypatch):
    class Fails(Processes):
        def __call__(self, program, request, folder, **named):
            if program[-1].endswith(":stream"):
                raise ValueError("no shared memory")
            return super().__call__(program, request, folder, **named)

    with pytest.raises(ValueError, match="no shared memory"):
        bench(tmp_path, Fails(), monkeypatch)
    (path,) = tmp_path.rglob("*.json")
    record = DataRecord.read(path)
    assert not record.complete
    assert len(record.preparation) == 8


def test_tokens_that_differ_from_the_tokenizers_are_refused(tmp_path, monkeypatch):
    class Loses(Processes):
        def written(self):
            return super().written() - 1

    with pytest.raises(ValueError, match=r"got \[999, 1000\] tokens without EOS"):
        bench(tmp_path, Loses(), monkeypatch)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "--rounds: got 0"),
        ({"megabytes": -1}, "--megabytes: got -1"),
        ({"seconds": float("nan")}, "--seconds: got nan"),
        ({"timeout": 0}, "--timeout: got 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DataSettings(**changes)


def test_what_the_user_says_wins_over_the_defaults():
    assert with_defaults([])[0] == "data=slimpajama"
    words = with_defaults(["data=text", "+data.vocab_size=500"])
    assert words[-2:] == ["data=text", "+data.vocab_size=500"]
    assert not {"data=slimpajama", "data.vocab_size=32000"} & set(words)


def test_data_that_is_made_up_cannot_be_prepared(tmp_path, capsys):
    assert main(["bench", "data", "data=synthetic", "--output", str(tmp_path)]) == 1
    assert "data=synthetic is not prepared" in capsys.readouterr().err


def first_of_each_kind_apart():
    """Starts a process for the first measurement of each kind; the later ones are made in this process."""
    seen = set()

    def measured(program, request, folder, **named):
        function = program[-1]
        if function in seen:
            module, _, name = function.partition(":")
            return getattr(importlib.import_module(module), name)(json.loads(json.dumps(request)))
        seen.add(function)
        return ask(program, request, folder, **named)

    return measured


def test_the_command_measures_with_real_processes(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(bench_data.__kwdefaults__, "ask", first_of_each_kind_apart())
    monkeypatch.setattr(preparation, "use_cores", lambda count: None)  # of this process, which has others to do
    monkeypatch.setattr(streaming, "use_cores", lambda count: None)
    monkeypatch.setattr(rounds, "CASES", ((OURS, 0, True), (OURS, 0, False), (OURS, 1, True), (OURS, 2, True),
                                          ("litespark, domains", 0, True), ("litdata", 0, True)))  # fmt: skip
    for module in (rounds, session):
        monkeypatch.setattr(module, "usable_cores", lambda: 1)
    words = ["--rounds", "1", "--megabytes", "0.3", "--seconds", "0.05", "--output", str(tmp_path)]
    assert main(["bench", "data", *OVERRIDES, "data.micro_batch_size=2", *words]) == 0
    said = capsys.readouterr().out
    (path,) = tmp_path.rglob("*.json")
    record = DataRecord.read(path)
    assert record.complete
    assert f"record: {path}" in said
    assert min(run.peak_bytes for run in record.memory) > 10_000_000
    assert str(tmp_path) not in json.dumps(json.loads(path.read_text()))
