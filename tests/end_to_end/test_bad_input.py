"""Bad input, one table: each row is refused with one short error and leaves nothing behind.

Most rows run in this process, where a second is enough for dozens; the form of the output, the exit code and sweeps
are checked through `python train.py`.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from litespark.callbacks import checkpoint_folder
from litespark.experiment.config import parts_from
from litespark.experiment.run import USER_ERRORS, train
from tests.end_to_end.runs import ROOT, environment, write_text

SMALL = (
    "model.vocabulary=300 model.width=32 model.layers=1 model.heads=2 model.kv_heads=2 model.feed_forward=64 "
    "model.max_sequence_length=64 data.sequence_length=32 data.micro_batch_size=2 data.validation_rows=2 "
    "trainer.batch_rows=2 trainer.accelerator=cpu budget.tokens=null budget.steps=2 metrics.probe_seconds=0 "
    "callbacks.report=false callbacks.progress=false callbacks.sample_prompt=null"
)
NO_FILES = "data=synthetic"
LONGEST = 12
# Hydra's own message lists the choices of a group, one a line
LONGEST_WITH_CHOICES = 20


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
        return [part.format(w=self.root) for part in f"{SMALL} {places} {text}".split()]

    def everything(self) -> dict[str, int]:
        """Every file with its size, every folder with -1."""
        return {str(path): path.stat().st_size if path.is_file() else -1 for path in self.root.rglob("*")}


def config_of(overrides: list[str]):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", overrides=overrides)


def sealed(folder: Path, state: Path, about: dict) -> None:
    """Make `state` the sealed checkpoint of step 1 of the run in `folder`, as an attacker could."""
    unfinished = checkpoint_folder.begin(folder / "checkpoints", 1, 0)
    shutil.copy(state, unfinished / checkpoint_folder.STATE)
    checkpoint_folder.seal(unfinished, 1, about)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("bad")
    (root / "data" / "prepared").mkdir(parents=True)
    (root / "logs" / "runs").mkdir(parents=True)
    made = World(root)

    # text that is wrong
    write_text(root / "text", documents=12, words=100)
    (root / "empty").mkdir()
    (root / "empty.txt").touch()
    (root / "bytes.txt").write_bytes(b"\xff\xfe" * 500)
    (root / "broken.jsonl").write_text('{"txt": "the field is called text"}\nnot json\n')
    (root / "broken.jsonl.zst").write_bytes(b"not zstd")
    (root / "folder.jsonl").mkdir()
    (root / "file").write_text("in the way")
    (root / "victim").write_text("must survive")

    # prepared folders: a good one, and damaged copies
    run = train(config_of(made.overrides("data.source={w}/text data.name=good data.validation_fraction=0.3 name=good")))
    prepared = next((root / "data" / "prepared").iterdir())
    for name in ("prepared", "no_manifest", "short_chunk"):
        shutil.copytree(prepared, root / name)
    (root / "no_manifest" / "manifest.json").unlink()
    chunk = next((root / "short_chunk" / "train").glob("*.bin"))
    chunk.write_bytes(chunk.read_bytes()[:100])

    # checkpoints: of a run without files, and what others may hand over
    shutil.rmtree(run)
    run = train(config_of(made.overrides(f"{NO_FILES} name=synthetic")))
    state = run / "checkpoints" / "step-00000002" / checkpoint_folder.STATE
    for name in ("truncated", "flipped", "other_model", "pickled", "unsealed"):
        shutil.copytree(run, root / name)
    truncated = root / "truncated" / "checkpoints" / "step-00000002" / checkpoint_folder.STATE
    truncated.write_bytes(state.read_bytes()[:1000])
    flipped = root / "flipped" / "checkpoints" / "step-00000002" / checkpoint_folder.STATE
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    (root / "unsealed" / "checkpoints" / "step-00000002" / checkpoint_folder.SEAL).unlink()
    model = asdict(parts_from(config_of(made.overrides(NO_FILES))).model)
    shutil.rmtree(root / "other_model" / "checkpoints" / "step-00000002")
    sealed(root / "other_model", state, {"model": {**model, "width": 64}})
    (root / "planted.ckpt").write_bytes(pickle.dumps(Payload(root / "executed")))
    torch.save({"state_dict": Payload(root / "executed")}, root / "planted_by_torch.ckpt")
    shutil.rmtree(root / "pickled" / "checkpoints" / "step-00000002")
    sealed(root / "pickled", root / "planted_by_torch.ckpt", {"model": model})

    # weights of another shape
    (root / "weights").mkdir()
    (root / "weights" / "config.json").write_text(
        json.dumps(
            {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
            | {"vocab_size": 300, "max_position_embeddings": 64}
        )
    )
    return made


# what is wrong: overrides -> what the message must say: what was got, what was expected, what to do
TABLE = {
    "unknown key": ("optim.learning_rate=1", "Could not override 'optim.learning_rate'", "+optim.learning_rate=1"),
    "unknown key, appended": ("+optim.learning_rate=1", "optim", "unexpected keyword argument", "see configs/optim"),
    "unknown experiment": ("experiment=nope", "'experiment/nope'", "Available options", "llama3b_litespark"),
    "unknown choice of a group": ("model=nope", "'model/nope'", "Available options", "tiny"),
    "unknown group": ("modell=tiny", "Could not override 'modell'"),
    "value of another kind": ("trainer.batch_rows=many", "trainer.batch_rows: got 'many'", "a whole number", "set"),
    "number as text": ("optim.lr=fast", "optim.lr: got 'fast', expected a number"),
    "value out of range": ("optim.lr=-1", "optim.lr: got -1, expected a positive"),
    "unknown precision": ("precision.name=fp4", "precision.name: got 'fp4', expected auto, fp32 or bf16"),
    "unknown recompute": ("recompute.mode=some", "recompute.mode: got 'some', expected none or full"),
    "unknown accelerator": ("trainer.accelerator=tpu", "got 'tpu', expected auto, cpu or cuda"),
    "unknown strategy": ("strategy.name=tp", "strategy.name: got 'tp', expected single, ddp or fsdp"),
    "unknown backend of an op": (f"{NO_FILES} ops.attention=nope", "ops.attention=nope", "known", "reference, sdpa"),
    "tokens and steps": ("budget.tokens=9", "got tokens and steps, expected one", "budget.tokens=null"),
    "missing data": ("data.source={w}/nowhere", "{w}/nowhere does not exist", "Set data.source to"),
    "missing SlimPajama": ("data=slimpajama", "{w}/data/slimpajama does not exist", "litespark prepare"),
    "no source": ("data=text", "data.source: got None, expected a text", "set data.source="),
    "remote data": ("data.source=s3://bucket/text", "remote address", "expected a local path", "Copy"),
    "empty folder": ("data.source={w}/empty", "{w}/empty holds no file named .txt", "Set data.source to"),
    "empty file": ("data.source={w}/empty.txt", "{w}/empty.txt", "no document", "Set data.source to"),
    "bytes that are not text": ("data.source={w}/bytes.txt", "1 of 1 documents", "invalid_utf8", "Mend or leave out"),
    "lines that are not JSON": ("data.source={w}/broken.jsonl", "2 of 2 documents", "data.text_field", "allows 1.00%"),
    "archive that is none": ("data.source={w}/broken.jsonl.zst", "{w}/broken.jsonl.zst is damaged", "Copy or download"),
    "folder named as a file": ("data.source={w}/folder.jsonl", "{w}/folder.jsonl holds no file named", "Set data.sou"),
    "folder for the tokenizer's file": (
        "data.source={w}/text data.tokenizer={w}/empty",
        "{w}/empty/tokenizer.json does not exist",
        "expected a tokenizer.json",
    ),
    "tokenizer that is none": (
        "data.source={w}/text data.tokenizer={w}/broken.jsonl",
        "{w}/broken.jsonl is not a tokenizer.json",
        "Name one",
    ),
    "tokenizer of another vocabulary": (
        "data.source={w}/text data.tokenizer={w}/prepared model.vocabulary=512",
        "data.vocabulary=512",
        "has 300 ids",
        "Set data.vocabulary=300",
    ),
    "file for the folder of prepared data": (
        "data.source={w}/text data.name=new data.root={w}/file",
        "data.root={w}/file",
        "Set data.root",
    ),
    "vocabulary that differs from the manifest": (
        "data.source={w}/prepared model.vocabulary=512",
        "model.vocabulary: got 512, expected the 300",
        "set model.vocabulary=300",
    ),
    "chunks without manifest": ("data.source={w}/no_manifest", "{w}/no_manifest has no manifest.json", "prepare"),
    "truncated chunk": ("data.source={w}/short_chunk", "has 100 bytes; the manifest says", "prepare the data again"),
    "too little text for one row": (
        "data.source={w}/prepared data.sequence_length=60000 model.max_sequence_length=60000",
        "holds",
        "data.sequence_length=60000 needs at least 60001",
        "Set data.sequence_length to at most",
    ),
    "sequences longer than the model's": (
        f"{NO_FILES} data.sequence_length=128",
        "data.sequence_length: got 128, expected at most model.max_sequence_length = 64",
        "lower the one or raise the other",
    ),
    "key/value heads that do not divide": (
        "model.kv_heads=3",
        "model.heads 2 is not a multiple of model.kv_heads 3",
        "choose a divisor",
    ),
    "heads that do not divide the width": (
        "model.heads=3 model.kv_heads=3",
        "model.width 32 is not a multiple of model.heads 3",
        "set model.head_width",
    ),
    "batch that does not divide": (
        f"{NO_FILES} trainer.batch_rows=3",
        "trainer.batch_rows: got 3, expected a multiple of data.micro_batch_size × ranks = 2 × 1 = 2",
        "set trainer.batch_rows=4",
    ),
    "missing checkpoint": (f"{NO_FILES} resume={{w}}/nowhere", "{w}/nowhere does not exist", "expected a run folder"),
    "folder without checkpoints": (f"{NO_FILES} resume={{w}}/empty", "no valid checkpoint in {w}/empty", "step-"),
    "truncated checkpoint": (
        f"{NO_FILES} budget.steps=9 resume={{w}}/truncated",
        "no valid checkpoint",
        "has 1000 bytes, expected",
        "Start the run again",
    ),
    "truncated checkpoint, named itself": (
        f"{NO_FILES} budget.steps=9 resume={{w}}/truncated/checkpoints/step-00000002",
        "has 1000 bytes, expected",
        "use an earlier one",
    ),
    "checkpoint with a flipped bit": (
        f"{NO_FILES} budget.steps=9 resume={{w}}/flipped",
        "SHA-256 differs",
        "use an earlier checkpoint",
    ),
    "checkpoint without its seal": (
        f"{NO_FILES} budget.steps=9 resume={{w}}/unsealed",
        "is not a checkpoint of this project",
        "initial_weights=HUGGING_FACE_FOLDER",
    ),
    "checkpoint of another model": (
        f"{NO_FILES} budget.steps=9 resume={{w}}/other_model",
        "the checkpoint of another model",
        "model.width is 64, expected 32",
        "Remove it",
    ),
    "pickle for a checkpoint": (
        f"{NO_FILES} resume={{w}}/planted.ckpt",
        "{w}/planted.ckpt is a file, expected a run folder",
        "initial_weights=FOLDER",
    ),
    "pickle in a sealed checkpoint": (
        f"{NO_FILES} budget.steps=9 resume={{w}}/pickled",
        "something else than tensors and plain values",
        "nothing in it was run",
        "Use a checkpoint that Litespark wrote",
    ),
    "address for a checkpoint": (
        f"{NO_FILES} resume=https://example.org/run",
        "got the address https://example.org/run, expected a local folder",
        "copy the run folder here",
    ),
    "run that is finished": (
        f"{NO_FILES} resume={{w}}/logs/runs/synthetic",
        "step 2 of 2 and finished",
        "raise budget.tokens",
    ),
    "model changed on resume": (
        f"{NO_FILES} budget.steps=9 resume={{w}}/logs/runs/synthetic model.width=64",
        "model.width: was 32, is now 64",
        "give the same overrides again",
    ),
    "data changed on resume": (
        f"{NO_FILES} budget.steps=9 resume={{w}}/logs/runs/synthetic data.sequence_length=16 seed=2",
        "data.sequence_length: was 32, is now 16",
        "seed: was 1234, is now 2",
        "or start a new run",
    ),
    "file for the folder of runs": (f"{NO_FILES} paths.logs={{w}}/file", "cannot write below {w}/file", "set paths.l"),
    "name of an earlier run": (f"{NO_FILES} name=synthetic", "exists already", "choose another name", "resume="),
    "name with a path": (f"{NO_FILES} name=../up", "got '../up', expected a plain folder name"),
    "file for initial weights": (f"{NO_FILES} initial_weights={{w}}/file", "got {w}/file, expected a Hugging Face"),
    "initial weights without files": (f"{NO_FILES} initial_weights={{w}}/empty", "config.json cannot be read", "comp"),
    "initial weights of another shape": (
        f"{NO_FILES} initial_weights={{w}}/weights",
        "width=64",
        "expected what model=tiny states",
        "set model.width=64",
    ),
    "target that calls a function": ("optim._target_=os.system", "optim._target_: got the target 'os.system'", "exp"),
    "target that deletes": (
        "optim._target_=pathlib.Path.unlink +optim.self={w}/victim",
        "'pathlib.Path.unlink', expected a class below litespark.",
        "LITESPARK_ALLOWED_TARGETS",
    ),
    "target reached through a module of ours": (
        "optim._target_=litespark.experiment.run.shutil.rmtree +optim.path={w}/text",
        "'litespark.experiment.run.shutil.rmtree', expected a class",
    ),
    "function of ours for a target": (
        "optim._target_=litespark.callbacks.checkpoint_folder.prune",
        "prune', expected a class below litespark.",
    ),
    "target deep inside": (
        "+optim.deep.list=[{{_target_:os.system}}]",
        "optim.deep.list[0]._target_: got the target 'os.system'",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_bad_input_is_one_short_error_and_leaves_nothing_behind(world, case):
    overrides, *says = TABLE[case]
    before = world.everything()
    with pytest.raises((*USER_ERRORS, HydraException)) as caught:
        train(config_of(world.overrides(overrides)))
    message = str(caught.value)
    for phrase in says:
        assert phrase.format(w=world.root) in message
    choices = "Available options" in message
    assert len(message.splitlines()) <= (LONGEST_WITH_CHOICES if choices else LONGEST), message
    assert world.everything() == before
    assert not (world.root / "executed").exists()


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_logger_without_its_package_says_what_to_install(world, package, monkeypatch):
    # as on a machine that does not have it, whether this one has it or not
    def absent(*args, **settings):
        raise ModuleNotFoundError(f"No module named {package!r}")

    name = {"wandb": "WandbLogger", "mlflow": "MLFlowLogger"}[package]
    monkeypatch.setattr(f"lightning.pytorch.loggers.{name}", absent)
    before = world.everything()
    with pytest.raises(ValueError, match=rf"logger={package}: its package is not installed .*pip install {package}"):
        train(config_of(world.overrides(f"{NO_FILES} logger={package}")))
    assert world.everything() == before


def test_a_payload_would_have_run_if_it_had_been_unpickled(tmp_path):
    """Or the rows above would show nothing."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


def started(world: World, overrides: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "train.py", *flags, *world.overrides(overrides)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "case",
    [
        "unknown experiment",
        "missing data",
        "pickle for a checkpoint",
        "target that deletes",
        "model changed on resume",
    ],
)
def test_train_py_prints_the_error_and_exits_with_1(world, case):
    overrides, *says = TABLE[case]
    before = world.everything()
    done = started(world, overrides)
    assert done.returncode == 1, done.stderr
    for phrase in says:
        assert phrase.format(w=world.root) in done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    # Hydra adds which overrides it had, and how to see a trace
    assert len(lines) <= 3 + (LONGEST_WITH_CHOICES if case == "unknown experiment" else LONGEST), done.stderr
    assert world.everything() == before


def test_in_a_sweep_a_failed_job_is_reported_and_the_others_run(world, tmp_path):
    done = started(world, f"{NO_FILES} paths.logs={tmp_path} model.kv_heads=1,3,2", "-m")
    assert done.returncode == 1, done.stderr
    assert "model.heads 2 is not a multiple of model.kv_heads 3" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    runs = sorted(folder for folder in (tmp_path / "runs").iterdir() if folder.is_dir())
    records = [json.loads((run / "run.json").read_text()) for run in runs]
    assert [record["status"] for record in records] == ["finished", "finished"]
    configs = [OmegaConf.load(run / "config.yaml") for run in runs]
    assert sorted(config.model.kv_heads for config in configs) == [1, 2]


def test_one_rank_of_two_refuses_a_batch_that_suits_one(world):
    environment_of_rank = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    before = world.everything()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment_of_rank.items():
            patch.setitem(os.environ, name, value)
        with pytest.raises(ValueError, match=r"got 2, expected a multiple of .* = 2 × 2 = 4; set trainer.batch_rows=4"):
            train(config_of(world.overrides(f"{NO_FILES} strategy=ddp")))
        with pytest.raises(ValueError, match="strategy=single: got 2 processes, expected one; start without torchrun"):
            train(config_of(world.overrides(f"{NO_FILES} trainer.batch_rows=4")))
    assert world.everything() == before
