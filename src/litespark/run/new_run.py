"""A new run before anything is trained: its folder and name, and its record: model, data, machine, commit, command."""

import itertools
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import yaml

from litespark.atomic import write_whole
from litespark.data.contents import write_run_data
from litespark.data.examples.config import EXAMPLES, ExamplesConfig
from litespark.data.manifest import Manifest
from litespark.device import device_of
from litespark.metrics.energy_by_phase import EnergyMeter
from litespark.metrics.environment import collect_environment, git_state
from litespark.metrics.records.base import RecordError, as_record_error
from litespark.metrics.records.origin import EnvironmentRecord, Provenance, utc_now
from litespark.ops.measuring import source_hash
from litespark.override_text import override
from litespark.planning.flops import causal_mean_keys, model_flops_per_token
from litespark.planning.memory import training_state_bytes
from litespark.run import folder as run_folder
from litespark.run.config import ConfigError, Parts, config_hash
from litespark.run.preflight import Machine, keeps_casts
from litespark.run.record import AdapterRecord, DataRecord, ModelRecord, RunRecord, SegmentRecord
from litespark.run.variant import legible
from litespark.training.checkpoint.folder import finished

# of a folder on the usual file systems, less what TensorBoard and we put behind a name
LONGEST_NAME = 200
# the commit of a run is that of the code it runs, wherever it is started
_CODE = Path(__file__).resolve().parents[1]


def check_name(parts: Parts, *, again: bool = False) -> None:
    """Refuse a `name` that cannot be that of a new run; early, since preparing the data may take long.

    With `again` one may be taken whose run was ended before it saved anything.
    """
    name, root = parts.name, parts.logs / "runs"
    if not name:
        return
    if Path(name).name != name or name.startswith(".") or len(os.fsencode(name)) > LONGEST_NAME:
        raise ConfigError(
            f"name: got {name!r}, expected a plain folder name of at most {LONGEST_NAME} bytes (below {root})"
        )
    if (root / name).exists():
        _check_untrained(root / name, again=again)


def _check_untrained(folder: Path, *, again: bool) -> None:
    if run_folder.nothing_trained(folder) or (again and run_folder.nothing_saved(folder)):
        return
    remedy = "or remove it; it has no checkpoint to continue from"
    if finished(folder / run_folder.CHECKPOINTS):
        remedy = f"or continue that run with {override('resume', folder)}"
    raise ConfigError(f"name={folder.name}: {folder} exists already; choose another name, {remedy}")


def make(
    parts: Parts,
    overrides: list[str],
    prepared: Path | None = None,
    manifest: Manifest | None = None,
    hold: Callable[[Path], None] = lambda folder: None,
    *,
    again: bool = False,
) -> Path:
    """Make the folder of a new run, locked by `hold`, and write into it the config and what is needed of the data.

    It is called `name`, or else after the time and `overrides`, those that distinguish this run. A folder of that
    `name` in which nothing was trained is used again, and with `again` one whose run was ended before it saved.
    """
    check_name(parts, again=again)
    name = parts.name or _default_name(overrides)
    folder = parts.logs / "runs" / name
    for number in itertools.count(2):
        try:
            folder.mkdir(parents=True, exist_ok=bool(parts.name))
            break
        except FileExistsError:
            folder = folder.with_name(f"{name}-{number}")
    hold(folder)
    _check_untrained(folder, again=again)  # another process may have been faster
    for path in folder.iterdir():
        if path.name != run_folder.LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_config(folder / run_folder.CONFIG, parts)
    if manifest is not None:
        write_run_data(folder, manifest)
    if prepared is not None:
        (folder / run_folder.TOKENIZER).mkdir()
        for file in sorted(prepared.glob("tokenizer*.*")):
            shutil.copyfile(file, folder / run_folder.TOKENIZER / file.name)
    return folder


def write_config(path: Path, parts: Parts) -> None:
    write_whole(path, yaml.safe_dump(parts.resolved, sort_keys=False))


def _default_name(overrides: list[str]) -> str:
    # in characters that need no quotes in a shell or in Hydra's resume=…
    unsaid = ("resume=", "name=", "paths.", "hydra.", "data.source=")
    said = "_".join(legible(word) for word in overrides if not word.startswith(unsaid))
    short = re.sub(r"[^A-Za-z0-9._+-]+", "-", said)[:100].strip("-_")
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return f"{stamp}_{short}" if short else stamp


def new_segment(machine: Machine, first_step: int, overrides: Sequence[str]) -> SegmentRecord:
    """The stretch of a run that begins at `first_step` in this process."""
    command, (commit, _) = ["python", "train.py", *overrides], git_state(_CODE)
    return SegmentRecord(utc_now(), first_step, command=command, git_commit=commit, world_size=machine.ranks.world_size)


def provenance(
    parts: Parts, machine: Machine, meter: EnergyMeter, command: Sequence[str], overrides: Sequence[str]
) -> Provenance:
    """What runs, and where, as of now; a collective, since it lists the devices of all ranks."""
    commit, dirty = git_state(_CODE)
    return Provenance(
        time=utc_now(),
        command=list(command),
        overrides=list(overrides),
        git_commit=commit,
        git_dirty=dirty,
        source_hash=source_hash(_CODE),
        config_hash=config_hash(parts.resolved),
        environment=_environment(machine, meter),
    )


def new_record(
    parts: Parts, machine: Machine, folder: Path, manifest: Manifest, meter: EnergyMeter, overrides: Sequence[str]
) -> RunRecord:
    """The record of a run that is about to start; a collective, as `provenance`."""
    splits, of_text = manifest.splits, parts.task.measures_text
    return RunRecord(
        provenance(parts, machine, meter, ["python", "train.py", *overrides], overrides),
        name=folder.name,
        task=parts.task.name,
        choices=list(machine.choices),
        loss_unit=parts.task.loss_unit,
        example=EXAMPLES[parts.data.format] if isinstance(parts.data, ExamplesConfig) else None,
        seed=parts.seed,
        model=_model_record(parts),
        adapter=_adapter_record(parts, machine),
        data=DataRecord(
            name=manifest.name,
            manifest_hash=manifest.hash,
            vocab_size=manifest.vocab_size,
            train_tokens=splits["train"].tokens,
            validation_tokens=splits["validation"].tokens,
            unigram_entropy=manifest.unigram_entropy if of_text else None,
            unigram_bits_per_byte=manifest.unigram_bits_per_byte() if of_text else None,
        ),
    )


def _environment(machine: Machine, meter: EnergyMeter) -> EnvironmentRecord:
    ranks = machine.ranks
    mine = collect_environment(machine.device, world_size=ranks.world_size, precision=machine.precision, meter=meter)
    shared = not device_of(machine.device).is_accelerator and ranks.local_rank > 0  # one processor for all of its ranks
    by_rank = machine.mesh.gather([] if shared else mine.devices)
    return replace(mine, devices=[device for devices in by_rank for device in devices])


def _adapter_record(parts: Parts, machine: Machine) -> AdapterRecord | None:
    adapter, counts = parts.adapter, parts.adapter_counts
    if adapter is None or counts is None:
        return None
    kept, kept_of_all = (
        keeps_casts(of, machine.precision, machine.device) for of in (parts, replace(parts, adapter=None))
    )
    return AdapterRecord(
        kind="dora" if adapter.dora else "lora",
        rank=adapter.rank,
        trained_parameters=counts.trained,
        state_bytes=training_state_bytes(parts.model, optimizer=parts.optim, keeps_casts=kept, trained=counts.trained),
        full_state_bytes=training_state_bytes(parts.model, optimizer=parts.optim, keeps_casts=kept_of_all),
    )


def _model_record(parts: Parts) -> ModelRecord:
    model, length, adapter = parts.model, parts.data.seq_len, parts.adapter_counts
    try:
        with as_record_error():
            return ModelRecord(
                name=model.name,
                parameters=model.parameter_count(),
                matmul_parameters=model.matmul_parameter_count(),
                flops_per_token_causal=model_flops_per_token(model, causal_mean_keys(length), adapter),
                flops_per_token_full=model_flops_per_token(model, length, adapter),
                seq_len=length,
                initial_weights=parts.initial_weights,
            )
    except RecordError as error:
        raise ConfigError(
            f"model={model.name}: the counts of {type(model).__name__} for these sizes cannot be: {error}; correct the "
            "sizes, or the method of the family that counts them"
        ) from error
