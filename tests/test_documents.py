"""README and CONTRIBUTING speak of files, commands, keys and targets that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from litespark.cli import COMMANDS
from tests.pasted import shown_files

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "docs/ops.md"]
LONGEST_README = 250
# a word in capitals stands for something of the reader's: FOLDER, configs/experiment/NAME.yaml
PLACEHOLDER = re.compile(r"\b[A-Z_]{2,}\b")


def quoted(document: str) -> list[str]:
    """Everything in backticks, and every line of a code block."""
    text = (ROOT / document).read_text()
    block = re.compile(r"^ *```\w*\n(.*?)^ *```", flags=re.DOTALL | re.MULTILINE)
    blocks, rest = block.findall(text), block.sub("", text)
    inline = [" ".join(words.split()) for words in re.findall(r"`([^`]+)`", rest)]
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [*inline, *lines]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= LONGEST_README


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_paths_lead_somewhere(document):
    text = (ROOT / document).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    titles = re.findall(r"^#+ (.*)", text, flags=re.MULTILINE)
    headings = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
    links += [f"#{place}" for place in re.findall(r"\]\(#([^)]+)\)", text) if place not in headings]
    starts = ("src/", "tests/", "configs/", "notebooks/", "docs/")
    words = [word for word in quoted(document) if " " not in word and not PLACEHOLDER.search(word)]
    paths = [word for word in words if word.startswith(starts)]
    missing = [link for link in links if not (ROOT / document).parent.joinpath(link).exists()]
    missing += [path for path in paths if not (ROOT / path).exists() and path not in shown_files()]
    assert not missing
    assert links or paths


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_exist(document):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    said = quoted(document)
    assert {word for line in said for word in re.findall(r"^make ([a-z-]+)", line)} <= targets
    assert {word for line in said for word in re.findall(r"^litespark (bench [a-z-]+|[a-z-]+)", line)} <= set(COMMANDS)
    if document == "README.md":
        assert all(any(f"litespark {name}" in line for line in said) for name in COMMANDS if name != "train")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_overrides_compose(document):
    """Of the command lines and of single keys in backticks; what stands for the reader's own is a text."""
    shown = [Path(path).with_suffix("").parts for path in shown_files() if path.startswith("configs/")]
    own = ("model=NAME", "callbacks.extra.", *(f"{group}={name}" for _, group, name in shown))
    commands = re.compile(r"(python train\.py|torchrun|litespark (prepare|verify-resume|bench)) ")
    lines = [line.replace("…", " ") for line in quoted(document) if commands.match(line)]
    assert lines
    for line in lines:
        words = [word for word in line.split() if re.match(r"[a-z_.]+=", word) and word != "key=value"]
        # of a sweep the first value; there is no file or class of the reader's to choose
        choices = [PLACEHOLDER.sub("text", word).split(",")[0] for word in words if not word.startswith(own)]
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            compose("train", overrides=choices)


FIRST_GUESSES = (
    "add a task",
    "add a model family",
    "add an optimizer",
    "add a config group",
    "where the loss is masked",
    "where the learning rate is set",
    "where MFU is computed",
    "where J/token is computed",
    "the checkpoint format",
    "fp8 scales",
    "the run record",
)


def test_the_table_of_places_names_files_that_have_what_it_names():
    table = (ROOT / "CONTRIBUTING.md").read_text().split("## Where things are")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", table, flags=re.MULTILINE)
    assert all(any(what.startswith(guess) for what, _ in rows) for guess in FIRST_GUESSES)
    for what, where in rows[1:]:
        file, *names = re.findall(r"`(.*?)`", where)
        assert (ROOT / file).exists(), what
        assert all(name in (ROOT / file).read_text() for name in names if "/" not in name), what


def test_folders_of_the_map_are_those_of_the_house():
    map_of_folders = (ROOT / "README.md").read_text().split("## The folders")[1].split("```")[1]
    named = set(re.findall(r"^  ([a-z]+)/", map_of_folders, flags=re.MULTILINE))
    rooms = {path.parent.name for path in (ROOT / "src" / "litespark").glob("*/__init__.py")}
    assert named == rooms
