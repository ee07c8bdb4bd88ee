"""The folder of a run, `logs/runs/NAME`: the names of all that lies in it, and how its plain files are read."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

CONFIG = "config.yaml"  # the whole config that the run was started with
LOCK = "lock"  # names the process that writes the run
DATA = "data.json"  # what the manifest of the prepared data states
DATA_PLACE = "data_place.json"  # where the prepared data lies
TOKENIZER = "tokenizer"
RECORD = "run.json"
METRICS = "metrics.jsonl"  # see `litespark.run.metric_rows`
ENERGY = "energy.jsonl"
REFERENCE = "reference.npz"  # log-probabilities of the reference model, for a task that has one
CHECKPOINTS = "checkpoints"
SEAL = "checkpoint.json"  # in each of the checkpoints: what it holds, with hashes
REFERENCES = "reference"  # beside the folder of runs: the same of several runs, by what they depend on
SAMPLES = "samples.md"
REPORT = "report.md"

# what a run writes before its first step; the last three are of loggers
_BEFORE_TRAINING = {CONFIG, LOCK, DATA, DATA_PLACE, TOKENIZER, RECORD, METRICS, ENERGY, CHECKPOINTS, REFERENCE,
                    "hparams.yaml", "wandb", "mlruns"}  # fmt: skip


def config_from(step: int) -> str:
    """The name of the config that a resume from `step` goes on with."""
    return f"config-from-step-{step:08d}.yaml"


def run_of(path: str | Path) -> Path:
    """The folder of a run, given it, its checkpoints or one of them."""
    path = Path(path).absolute()
    if path.parent.name != CHECKPOINTS and path.is_symlink():  # such as one called `latest`
        path = path.resolve()
    if path.parent.name == CHECKPOINTS or (path / SEAL).is_file():
        return path.parent.parent
    return path.parent if path.name == CHECKPOINTS else path


def nothing_trained(folder: Path) -> bool:
    """Whether a folder holds nothing but what a run writes before its first step is logged or saved."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir() if not path.name.startswith("events.out.tfevents")}
    logged = folder / METRICS
    if not names <= _BEFORE_TRAINING or (logged.is_file() and logged.stat().st_size):
        return False
    return not any((folder / CHECKPOINTS).glob("[!.]*"))


def nothing_saved(folder: Path) -> bool:
    """Whether a folder is that of a run which was ended in its training, before its first checkpoint."""
    record = folder / RECORD
    if not record.is_file() or not (folder / CONFIG).is_file() or any((folder / CHECKPOINTS).glob("[!.]*")):
        return False
    try:
        return json.loads(record.read_bytes()).get("status") != "finished"
    except (ValueError, AttributeError):
        return False


def read_config(path: Path) -> dict[str, Any]:
    """The config in a file; a ValueError where it is no YAML mapping any more, an OSError where it cannot be read."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(config, dict):
            flatten(config)  # an alias may contain itself
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # of texts that look like dates, too
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not valid YAML ({reason}); restore the file that the run wrote") from error
    if not isinstance(config, dict):
        raise ValueError(
            f"{path}: got {type(config).__name__}, expected a mapping; restore the file that the run wrote"
        )
    return config


def flatten(values: Any, into: tuple[type, ...] = (Mapping,)) -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}; lists stay values, unless `into` has them."""
    return {key: value for key, value in dotted(values, into=into) if not (isinstance(value, into) and value)}


def dotted(values: Any, at: str = "", into: tuple[type, ...] = (Mapping,)) -> Iterator[tuple[str, Any]]:
    """Every value of nested mappings by its dotted key, below `at`; a mapping comes before what it holds."""
    for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
        name = f"{at}.{key}" if at else str(key)
        yield name, value
        if isinstance(value, into):
            yield from dotted(value, name, into)
