"""Each row of the table of bad input is refused with one short error and leaves nothing behind.

Most rows run in this process, where a second is enough for dozens; the form of the output, the exit code and sweeps
are checked through `python train.py`.
"""

import json
import pickle
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import zstandard
from hydra.errors import HydraException
from safetensors.torch import save_file

from litespark.run.composing import compose as config_of
from litespark.run.config import parts_from
from litespark.run.folder import SEAL
from litespark.run.train import USER_ERRORS, train
from tests.checkpoints import FILE, reseal
from tests.end_to_end import runs
from tests.end_to_end.bad_input import FROM, NO_FILES, TABLE
from tests.end_to_end.runs import write_text

SMALL = (
    "model.vocab_size=300 model.hidden_size=32 model.num_layers=1 model.num_heads=2 "
    "model.num_kv_heads=2 model.intermediate_size=64 "
    "model.max_seq_len=64 data.seq_len=32 data.micro_batch_size=2 data.validation_sequences=2 "
    "trainer.global_batch_size=2 trainer.accelerator=cpu budget.tokens=null budget.steps=2 metrics.probe_seconds=0 "
    "callbacks.report=false callbacks.progress=false callbacks.sample_prompt=null"
)
LONGEST = 12


class Payload:
    """Pickled, it would make a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@dataclass(frozen=True)
class World:
    """A folder of everything that can be wrong; the table names its members in braces."""

    root: Path

    def overrides(self, text: str) -> list[str]:
        places = "paths.logs={w}/logs paths.data={w}/data"
        sized = FROM not in text.split()  # else no size can be given
        words = [word for word in SMALL.split() if sized or not word.startswith("model.")]
        return [part.format(w=self.root) for part in [*words, *f"{places} {text}".split()]]

    def everything(self) -> dict[str, int]:
        """Every file with its size, every folder with -1."""
        return {str(path): path.stat().st_size if path.is_file() else -1 for path in self.root.rglob("*")}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("bad")
    (root / "data" / "prepared").mkdir(parents=True)
    (root / "logs" / "runs").mkdir(parents=True)
    made = World(root)

    # text that is wrong
    write_text(root / "text", documents=12, words=100)
    (root / "empty").mkdir()
    lines = b"".join(b'{"text": "%s"}\n' % text for text in (b"one", b"too long for a line", b"two"))
    files = {
        "empty.txt": b"", "bytes.txt": b"\xff\xfd" * 500, "zeros.txt": b"\0" * 100, "text.zip": b"PK\x03\x04",
        "broken.jsonl": b'{"txt": "the field is called text"}\nnot json\n', "broken.jsonl.zst": b"not zstd",
        "nonsense.jsonl": b"not json\nnor this\n", "lines.jsonl": lines, "cut.json": b'[{"text": "one"}, {"text": "tw',
        "cut.jsonl.zst": zstandard.compress(lines)[:-3], "none.parquet": b"PAR1", "file": b"in the way",
        "victim": b"must survive",
    }  # fmt: skip
    for name, content in files.items():
        (root / name).write_bytes(content)
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"content": ["one", "two"]}), root / "a.parquet")
    write_text(root / "half" / "test", documents=2, words=10)
    (root / "folder.jsonl").mkdir()

    # prepared folders: a good one, and damaged copies
    run = train(config_of(made.overrides("data.source={w}/text data.name=good data.validation_fraction=0.3 name=good")))
    prepared = next((root / "data" / "prepared").iterdir())
    for name in ("prepared", "no_manifest", "short_chunk"):
        shutil.copytree(prepared, root / name)
    (root / "no_manifest" / "manifest.json").unlink()
    chunk = next((root / "short_chunk" / "train").rglob("*.bin"))
    chunk.write_bytes(chunk.read_bytes()[:100])

    # folders of models: with weights of which nothing but the headers is read before the refusal, and without
    config = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
              "vocab_size": 300, "max_position_embeddings": 64}  # fmt: skip
    for name, changed in {
        "weights": {}, "bare": {}, "other_words": {}, "narrow": {"vocab_size": 200},
        "coded": {"model_type": "coded", "auto_map": {"AutoModelForCausalLM": "coded.Coded"}},
        "bert": {"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "t5": {"model_type": "t5"},
        "unknown": {"model_type": "nothing"}, "neox": {"model_type": "gpt_neox"},
    }.items():  # fmt: skip
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps({**config, **changed}))
        if name != "weights":
            save_file({"weight": torch.zeros(1)}, root / name / "model.safetensors")

    # weights with their tokenizer, and another tokenizer of the same size
    shutil.copytree(run, root / "logs" / "runs" / "trained")
    described = json.loads((run / "tokenizer" / "tokenizer.json").read_text())
    words = described["model"]["vocab"]
    first, last = min(words, key=words.get), max(words, key=words.get)
    words[first], words[last] = words[last], words[first]
    (root / "other").mkdir()
    (root / "other" / "tokenizer.json").write_text(json.dumps(described))
    shutil.copy(root / "other" / "tokenizer.json", root / "other_words")
    shutil.copy(run / "tokenizer" / "tokenizer.json", root / "narrow")

    # checkpoints: of a run without files, and what others may hand over
    shutil.rmtree(run)
    run = train(config_of(made.overrides(f"{NO_FILES} name=synthetic")))
    unsaved = shutil.copytree(run, run.with_name("unsaved"))
    shutil.rmtree(unsaved / "checkpoints")
    state = run / "checkpoints" / "step-00000002" / FILE
    for name in ("truncated", "flipped", "other_model", "pickled", "unsealed"):
        shutil.copytree(run, root / name)
    truncated = root / "truncated" / "checkpoints" / "step-00000002" / FILE
    truncated.write_bytes(state.read_bytes()[:1000])
    flipped = root / "flipped" / "checkpoints" / "step-00000002" / FILE
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    (root / "unsealed" / "checkpoints" / "step-00000002" / SEAL).unlink()
    model = parts_from(config_of(made.overrides(NO_FILES))).resolved["model"]
    reseal(root / "other_model" / "checkpoints" / "step-00000002", model={**model, "hidden_size": 64})
    (root / "planted.ckpt").write_bytes(pickle.dumps(Payload(root / "executed")))
    pickled = root / "pickled" / "checkpoints" / "step-00000002"
    torch.save({"state_dict": Payload(root / "executed")}, pickled / FILE)
    reseal(pickled)
    return made


ASSIGNMENT = r"'[a-z_][\w.]*=[^']*'|[a-z_][\w.]*=[^\s;,)]+"


def advised(message: str) -> list[str]:
    """What an error says to set, as it stands; not where the user is to fill in something."""
    found = re.findall(rf"\b[Ss]et ((?:(?:{ASSIGNMENT}) ?)+)", message)
    return [advice.rstrip(". ") for advice in found if not re.search(r"…|=[A-Z_]{3,}", advice)]


def test_advice_is_found_in_a_message():
    message = "got 3; set a.b=1 'c={d:[1,2]}', or name it. Set e=null. Then set f=FOLDER or g=…"
    assert advised(message) == ["a.b=1 'c={d:[1,2]}'", "e=null"]


@pytest.mark.parametrize("case", TABLE)
def test_bad_input_is_one_short_error_and_leaves_nothing_behind(world, case):
    overrides, *says = TABLE[case]
    before = world.everything()
    with pytest.raises((*USER_ERRORS, HydraException)) as caught:
        train(config_of(world.overrides(overrides)))
    message = str(caught.value)
    for phrase in says:
        assert phrase.format(w=world.root) in message
    # the advice takes the place of what it is about
    said = [word for word in world.overrides(overrides) if f"got {word}," not in message]
    others = [word for word in said if f"{word.lstrip('+').partition('=')[0]}: got " not in message]
    for advice in advised(message):
        config_of([*others, *shlex.split(advice)])
    assert len(message.splitlines()) <= LONGEST, message
    assert world.everything() == before
    assert not (world.root / "executed").exists()


def test_a_logger_that_is_absent_or_cannot_begin_is_one_message(world, monkeypatch):
    # as on a machine that does not have it, whether this one has it or not
    def absent(*args, **settings):
        raise ModuleNotFoundError("No module named 'wandb'")

    class Refusing:
        def __init__(self, **settings):
            pass

        @property
        def experiment(self):
            raise RuntimeError("No API key configured")  # of no kind that we have

    before = world.everything()
    for made, message in (
        (absent, "logger=wandb: its package is not installed .*pip install wandb"),
        (Refusing, "logger=wandb cannot begin: No API key.*wandb login.*WANDB_MODE=offline.*logger=default"),
    ):
        monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger", made)
        with pytest.raises(ValueError, match=message):
            train(config_of(world.overrides(f"{NO_FILES} logger=wandb")))
    assert world.everything() == before


def test_a_payload_would_have_run_if_it_had_been_unpickled(tmp_path):
    """Or the rows above would show nothing."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("case", "train_py"), [("unknown experiment", runs.train), ("pickle for a checkpoint", runs.train_apart)]
)
def test_train_py_prints_the_error_and_exits_with_1(world, case, train_py):
    overrides, *says = TABLE[case]
    before = world.everything()
    printed = train_py(*world.overrides(overrides), expect=1)
    for phrase in says:
        assert phrase.format(w=world.root) in printed
    assert "Traceback" not in printed
    assert len([line for line in printed.splitlines() if line.strip()]) <= LONGEST, printed
    assert "Error executing job" not in printed
    assert world.everything() == before


def test_one_rank_of_two_refuses_a_batch_that_suits_one(world, monkeypatch):
    before = world.everything()
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"got 3 and 2 processes, .* a multiple of 2; .*trainer.global_batch_size=4"):
        train(config_of(world.overrides(f"{NO_FILES} strategy=ddp trainer.global_batch_size=3")))
    with pytest.raises(ValueError, match="strategy=single: got 2 processes, expected one; start without torchrun"):
        train(config_of(world.overrides(f"{NO_FILES} trainer.global_batch_size=4")))
    assert world.everything() == before
