"""Rules that look at one document: planted junk goes under its rule, clean prose stays, and a lack is told early."""

from __future__ import annotations

import gzip
import json
import socket
import sys
from pathlib import Path
from random import Random

import pytest
import zstandard
from omegaconf import OmegaConf

from litespark.data.select import duplicates, rules
from litespark.data.select.config import QUALITY_RULES, SelectionConfig
from litespark.data.select.duplicates import Fingerprinter
from litespark.data.select.evaluation_texts import evaluation_files, evaluation_texts
from litespark.data.select.rules import QualityRule
from litespark.data.select.select import Selector, check_selection, selection_identity
from tests.data.select.prose import document, prose, sentence

ALL = SelectionConfig(quality=QUALITY_RULES, languages=("en",))


@pytest.fixture(scope="module")
def selector() -> Selector:
    return Selector(ALL)


def test_clean_prose_passes_every_rule(selector: Selector) -> None:
    assert [selector.refusal(document(prose(seed))) for seed in range(20)] == [None] * 20


JUNK = {
    "gopher_repetition/dup_line_frac": "\n".join([sentence(Random(number % 3)) for number in range(30)]),
    "gopher_quality/short_doc": "The old harbour is closed and the boats have left with the tide.",
    "gopher_quality/too_many_hashes": prose(1).replace("the ", "# # # "),
    "gopher_quality/below_alpha_threshold": prose(2).replace("and ", "12 34 56 78 90 "),
    "c4/curly_bracket": prose(3).replace("\n", " {\n", 1).replace("{\n", "{ it was.\n", 1),
    "c4/lorem_ipsum": prose(4) + "\nThere it said lorem ipsum and no more.",
    "c4/too_few_sentences": prose(5).replace(".", ";"),
    "fineweb/short_line_ratio": "\n".join(
        f"The {line} of the day."
        for line in Random(6).sample([f"{a} and {b}" for a in "abcdefghij" for b in "klmnop"], 30)
    ),
}


@pytest.mark.parametrize("rule", sorted(JUNK))
def test_planted_junk_goes_under_its_rule(rule: str) -> None:
    alone = Selector(SelectionConfig(quality=(rule.partition("/")[0],)))
    assert alone.refusal(document(JUNK[rule])) == rule


def test_the_first_rule_in_the_order_of_the_settings_names_a_document() -> None:
    text = JUNK["fineweb/short_line_ratio"] + "\nIt said lorem ipsum and no more."
    names = [
        Selector(SelectionConfig(quality=order)).refusal(document(text))
        for order in (("c4", "fineweb"), ("fineweb", "c4"))
    ]
    assert [str(name).partition("/")[0] for name in names] == ["c4", "fineweb"]


def test_c4_decides_and_changes_nothing() -> None:
    text = prose(7) + "\na line without an end"
    given = document(text)
    assert QualityRule("c4").refusal(given) is None
    assert given.text == text


def test_a_library_that_fails_names_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = QualityRule("fineweb")

    def fail(_: object) -> bool:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(rule._filter, "filter", fail)
    with pytest.raises(ValueError, match=r"corpus.jsonl, record 9: datatrove's fineweb fails on it .*division by zero"):
        rule.refusal(document("a", place=9))


RUSSIAN = "Старый учитель долго смотрел на тихую гавань и вспоминал далёкое путешествие по северному морю. " * 3
GERMAN = "Der alte Lehrer blickte lange auf den stillen Hafen und erinnerte sich an die weite Reise im Norden. " * 3


def test_documents_in_other_languages_go_and_several_languages_stay_together() -> None:
    for languages, gone in ((("en",), {RUSSIAN, GERMAN}), (("en", "ru"), {GERMAN})):
        rules = Selector(SelectionConfig(languages=languages))
        assert {text for text in (RUSSIAN, GERMAN, prose(8)) if rules.refusal(document(text)) == "language"} == gone


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """A question of an evaluation, as one JSON line."""
    path = tmp_path / "questions.jsonl"
    asked = {
        "id": 1,
        "question": "What did the Captain say, when 3 ships were lost at sea",
        "choices": ["that it was the wind", "no"],
    }
    path.write_text(json.dumps(asked) + "\n")
    return path


def test_a_document_with_a_run_of_words_of_an_evaluation_goes(evaluation: Path) -> None:
    rule = Selector(SelectionConfig(decontaminate=(str(evaluation),)))
    # other case, punctuation, diacritics and numbers; the run crosses from the question into the first choice
    hidden = "the càptain say: when 71 ships were lost AT SEA (that it was the wind)"
    shorter = "captain say when 3 ships were lost at sea"
    answers = [rule.refusal(document(f"{prose(9)} {words} {prose(10)}")) for words in (hidden, shorter)]
    assert answers == ["contaminated", None]
    five = Selector(SelectionConfig(decontaminate=(str(evaluation),), decontaminate_words=5))
    assert [five.refusal(document(text)) for text in ("ships were lost at sea", "ships were lost at")] == [
        "contaminated",
        None,
    ]


def test_evaluation_texts_are_read_in_every_form(tmp_path: Path) -> None:
    line = json.dumps({"a": {"b": ["one", 2, "two"]}, "c": "three"})
    (tmp_path / "a.txt").write_text("plain\ntext")
    (tmp_path / "b.json").write_text(f"[{line}, {line}]")
    (tmp_path / "c.jsonl").write_text(f"{line}\n\n{line}\n")
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    frames = zstandard.ZstdCompressor().compress(f"{line}\n".encode())
    (tmp_path / "e.jsonl.zst").write_bytes(frames + frames)
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = pyarrow.table({"a": [{"b": ["one", "two"]}], "n": [3], "c": ["three"]})
    parquet.write_table(rows, tmp_path / "f.parquet")
    (tmp_path / "G.JSONL").write_text(f"{line}\n")
    (tmp_path / "h").write_text(f"{line}\n{line}\n")
    (tmp_path / "i.yaml").write_text("plain: text")
    (tmp_path / "not_text.bin").write_bytes(b"\xff")
    (tmp_path / "packed.zip").write_bytes(b"PK\x03\x04")
    assert sorted(evaluation_texts((str(tmp_path),))) == ["one two three"] * 11 + ["plain\ntext", "plain: text"]
    assert evaluation_files((str(tmp_path),))[1] == {
        str(tmp_path / "not_text.bin"): "not text",
        str(tmp_path / "packed.zip"): "a zip archive; unpack it",
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing", None, r"missing cannot be read \(it is not there\)"),
        ("a.zip", b"PK\x03\x04", r"a\.zip: a zip archive; unpack it, expected a file or folder"),
        ("bad.txt", b"\xff", r"bad.txt cannot be read \(.*\), expected UTF-8 text"),
        ("bad.jsonl", b'{"a": "b"}\n{', r"bad.jsonl cannot be read \(line 2: no JSON"),
        ("bad.parquet", b"no table", "bad.parquet cannot be read"),
        ("bad.jsonl.gz", b"no gzip", "bad.jsonl.gz cannot be read"),
        ("cut.txt.gz", gzip.compress(prose(11, 300).encode())[:-200], "cut.txt.gz cannot be read"),
        ("short.txt", b"three words only", "got no text of 13 words or more, expected one at least"),
    ],
)
def test_evaluation_texts_that_cannot_be_used_are_refused(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Selector(SelectionConfig(decontaminate=(str(path),)))


def test_none_is_the_default_and_web_is_what_it_says() -> None:
    group = Path(__file__).parents[3] / "configs/data/selection"
    none, web = (OmegaConf.load(group / f"{name}.yaml") for name in ("none", "web"))
    assert SelectionConfig(**none) == SelectionConfig()
    del web["defaults"]
    assert SelectionConfig(**OmegaConf.to_container(OmegaConf.merge(none, web))) == SelectionConfig(
        quality=QUALITY_RULES, languages=("en",), exact_duplicates=True, near_duplicates=True
    )


def test_an_unknown_language_is_refused_early() -> None:
    with pytest.raises(ValueError, match=r"data.selection.languages: got xx; expected of .* en .* ru "):
        check_selection(SelectionConfig(languages=("en", "xx")))


@pytest.mark.parametrize(
    ("config", "module"),
    [
        (SelectionConfig(quality=("c4",)), "spacy"),
        (SelectionConfig(languages=("en",)), "py3langid.langid"),
        (SelectionConfig(decontaminate=("x.txt",)), "datatrove.utils.text"),
        (SelectionConfig(near_duplicates=True), "datasketch"),
    ],
)
def test_a_missing_library_says_what_to_install(
    config: SelectionConfig, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    duplicates.banding.cache_clear()
    rules._language_identifier.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"needs {module.partition('.')[0]}, .*pip install 'litespark\[selection\]'"):
        check_selection(config)


def test_no_rule_needs_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("datatrove", "spacy", "py3langid", "datasketch", "scipy"):
        monkeypatch.setitem(sys.modules, module, None)
    check_selection(SelectionConfig(exact_duplicates=True))
    assert Selector(SelectionConfig()).refusal(document("")) is None
    assert selection_identity(SelectionConfig(exact_duplicates=True)) == {}


def test_no_rule_asks_the_network(evaluation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a rule asks the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    rules = Selector(SelectionConfig(quality=QUALITY_RULES, languages=("en",), decontaminate=(str(evaluation),)))
    assert rules.refusal(document(prose(1))) is None
    Fingerprinter(SelectionConfig(near_duplicates=True)).add(0, document(prose(1)))


def test_the_identity_follows_versions_and_evaluation_texts(evaluation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SelectionConfig(decontaminate=(str(evaluation),), near_duplicates=True)
    first = selection_identity(config)
    assert first["evaluation_texts"][0][0] == "questions.jsonl"
    assert (first["bands"], first["rows_of_a_band"]) == (9, 13)
    evaluation.write_text(evaluation.read_text().replace("wind", "rain"))
    changed = selection_identity(config)
    assert {key for key in first if first[key] != changed[key]} == {"evaluation_texts"}
    monkeypatch.setattr("litespark.data.select.select.metadata.version", lambda _: "0")
    assert selection_identity(config)["datatrove"] == "0"
