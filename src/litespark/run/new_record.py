"""The run record as it stands before the first step: model, data, machine, commit and command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from litespark.data.manifest import Manifest
from litespark.metrics.energy import EnergyMeter
from litespark.metrics.environment import collect_environment, git_state
from litespark.metrics.records.origin import EnvironmentRecord, Provenance, utc_now
from litespark.ops.measuring import source_hash
from litespark.planning.flops import causal_mean_keys, model_flops_per_token
from litespark.run.config import Parts, config_hash
from litespark.run.preflight import Machine
from litespark.run.record import DataRecord, ModelRecord, RunRecord, SegmentRecord

# the commit of a run is that of the code it runs, wherever it is started
_CODE = Path(__file__).resolve().parents[1]


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
    model, length = parts.model, parts.data.seq_len
    splits = manifest.splits
    return RunRecord(
        provenance(parts, machine, meter, ["python", "train.py", *overrides], overrides),
        name=folder.name,
        task=parts.task.name,
        loss_unit=parts.task.loss_unit,
        seed=parts.seed,
        model=ModelRecord(
            name=model.name,
            parameters=model.parameter_count(),
            matmul_parameters=model.matmul_parameter_count(),
            flops_per_token_causal=model_flops_per_token(model, causal_mean_keys(length)),
            flops_per_token_full=model_flops_per_token(model, length),
            seq_len=length,
        ),
        data=DataRecord(
            name=manifest.name,
            manifest_hash=manifest.hash,
            vocab_size=manifest.vocab_size,
            train_tokens=splits["train"].tokens,
            validation_tokens=splits["validation"].tokens,
            unigram_entropy=manifest.unigram_entropy if parts.task.measures_text else None,
            unigram_bits_per_byte=manifest.unigram_bits_per_byte(),
        ),
    )


def _environment(machine: Machine, meter: EnergyMeter) -> EnvironmentRecord:
    ranks = machine.ranks
    mine = collect_environment(machine.device, world_size=ranks.world_size, precision=machine.precision, meter=meter)
    shared = machine.device.type == "cpu" and ranks.local_rank > 0  # one processor for all of its ranks
    by_rank = machine.mesh.gather([] if shared else mine.devices)
    return replace(mine, devices=[device for devices in by_rank for device in devices])
