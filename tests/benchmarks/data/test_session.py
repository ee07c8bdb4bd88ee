"""From the command's words to a record; the processes are played by a function, and once one is real."""

import importlib
import json

import pytest

from litespark.benchmarks.data import process, session
from litespark.benchmarks.data.process import texts_of
from litespark.benchmarks.data.session import CASES, DataSettings, bench_data, with_defaults
from litespark.child_process import ask
from litespark.cli import main
from litespark.metrics.records.data import DataRecord
from litespark.run import new_run as provenance_module
from tests.data.corpus import config, documents, write_texts

OVERRIDES = ["data.vocab_size=300", "data.seq_len=64"]
TEXTS = documents(40)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(provenance_module, "source_hash", lambda *folders: "0123456789abcdef")
    monkeypatch.setattr(session, "_TOKENIZER_DOCUMENTS", 20)
    monkeypatch.setattr(session, "usable_cores", lambda: 2)


def test_the_tokenizer_gets_all_the_text_that_is_prepared(tmp_path):
    source = write_texts(tmp_path / "text", TEXTS)
    assert sorted(texts_of(config(source, tmp_path))) == sorted(TEXTS)


class Processes:
    """Answers of processes that were never started; `lost` tokens of a preparation are missing, or streams fail."""

    def __init__(self, lost=0, streams=True):
        self.asked, self.lost, self.streams = [], lost, streams

    def __call__(self, program, request, folder, *, seconds, environment):
        name, cores = program[-1].rpartition(":")[2], request["cores"]
        assert environment == {"RAYON_NUM_THREADS": str(cores), "OMP_NUM_THREADS": "1"}
        self.asked.append((name, cores, request))
        if name == "stream":
            if not self.streams:
                raise ValueError("no shared memory")
            return [{"tokens": 100, "seconds": 1.0, "first_batch_seconds": 0.1} for _ in request["cases"]]
        tokens = 1000 + (len(TEXTS) - self.lost if name == "prepare_corpus" else 0)
        return {"seconds": 2.0, "tokens": tokens, "folder": "somewhere"}


def bench(folder, processes, monkeypatch):
    monkeypatch.setattr(session, "texts_of", lambda config: TEXTS)
    settings, command = DataSettings(rounds=2, megabytes=0.05, seconds=0.05), ["litespark", "bench", "data"]
    return bench_data(OVERRIDES, settings, command=command, output=folder, say=lambda line: None, ask=processes)


def test_all_take_turns_on_the_whole_text_with_the_same_tokenizer(tmp_path, monkeypatch):
    processes = Processes()
    record, path = bench(tmp_path, processes, monkeypatch)
    assert DataRecord.read(path) == record
    assert record.complete
    assert path.name.endswith("_bench-data_installed-packages_uint16.json")
    first = [("encode", 1), ("prepare_corpus", 1), ("encode", 2), ("prepare_corpus", 2)]
    turns = [(name, cores) for name, cores, _ in processes.asked]
    assert turns == [*first, *first[::-1], ("prepare_corpus", 2), ("stream", 2), ("stream", 2)]
    streams = [request["cases"] for name, _, request in processes.asked if name == "stream"]
    assert streams == [list(CASES), list(CASES)[::-1]]
    configs = [request["config"] for name, _, request in processes.asked if name == "prepare_corpus"]
    assert len({config["root"] for config in configs}) == len(configs)  # nothing is found ready
    assert {config["tokenizer"] for config in configs} == {configs[0]["tokenizer"]}
    assert [config["processes"] for config in configs] == [1, 2, 2, 1, 2]
    assert all(not config["selection"]["quality"] and config["max_bytes"] == 50_000 for config in configs)
    small = [2 * config["unit_bytes"] < record.text_bytes for config in configs[:4]]
    assert small == [False, True, True, False], "all cores have units"


def test_what_was_measured_is_kept_where_a_later_process_fails(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no shared memory"):
        bench(tmp_path, Processes(streams=False), monkeypatch)
    (path,) = tmp_path.rglob("*.json")
    record = DataRecord.read(path)
    assert not record.complete
    assert len(record.preparation) == 8
    with pytest.raises(ValueError, match=r"got \[999, 1000\] tokens without EOS"):
        bench(tmp_path, Processes(lost=1), monkeypatch)


def test_what_the_user_says_wins_over_the_defaults():
    assert with_defaults([])[0] == "data=installed_packages"
    words = with_defaults(["data=text", "+data.vocab_size=500"])
    assert words[-2:] == ["data=text", "+data.vocab_size=500"]
    assert not {"data=installed_packages", "data.vocab_size=32000"} & set(words)


def test_what_cannot_be_measured_is_refused(tmp_path, capsys):
    for words, message in ((["--rounds", "0"], "--rounds: got 0"), (["data=synthetic"], "is not prepared")):
        assert main(["bench", "data", *words, "--output", str(tmp_path)]) == 1
        assert message in capsys.readouterr().err


def test_the_command_measures_with_a_real_process(tmp_path, monkeypatch, capsys):
    apart = []

    def first_stream_apart(program, request, folder, **named):
        module, _, name = program[-1].partition(":")
        if name != "stream" or apart:
            return getattr(importlib.import_module(module), name)(json.loads(json.dumps(request)))
        apart.append(name)
        return ask(program, request, folder, **named)

    monkeypatch.setitem(bench_data.__kwdefaults__, "ask", first_stream_apart)
    monkeypatch.setattr(process, "use_cores", lambda count: None)  # of this process, which has others to do
    monkeypatch.setattr(session, "usable_cores", lambda: 1)
    words = ["--rounds", "1", "--megabytes", "0.3", "--seconds", "0.05", "--output", str(tmp_path / "results")]
    text = ["data=text", f"data.source={write_texts(tmp_path / 'text', documents(300))}", *OVERRIDES]
    assert main(["bench", "data", *text, "data.micro_batch_size=2", *words]) == 0
    said = capsys.readouterr().out
    (path,) = (tmp_path / "results").rglob("*.json")
    record = DataRecord.read(path)
    assert record.complete
    assert apart == ["stream"]
    assert f"record: {path}" in said
    assert str(tmp_path) not in json.dumps(json.loads(path.read_text()))
