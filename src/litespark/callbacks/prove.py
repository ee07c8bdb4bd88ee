"""Before the model is built: settles which backend each op uses, and proves the fast ones on this device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from litespark.metrics.records.run import RunRecord, finite_or_none
from litespark.metrics.records.run_ops import BackendTimeRecord, DifferenceRecord, OpRecord, ProofRecord
from litespark.ops.backend import Ops, OpsConfig
from litespark.ops.choice import Choice, in_short, settle
from litespark.ops.proof import Proof
from litespark.ops.shapes import Place
from litespark.training.first_rank import from_first

log = logging.getLogger(__name__)

T = TypeVar("T")


class Prove(Callback):
    """Fills the table of ops in `setup`, which Lightning calls before it lets the module build its model.

    Args:
        config: the backends asked for.
        place: device, dtype and sizes of the run.
        proving: run the proofs of the backends that are used.
        record: gets what was decided, and the errors.
        cache: file of what `auto` measured.
        idle: ops that the run does not compute with.
    """

    def __init__(
        self,
        config: OpsConfig,
        place: Place,
        *,
        proving: bool,
        record: RunRecord,
        cache: Path | None,
        idle: frozenset[str] = frozenset(),
    ) -> None:
        self.config = config
        self.place = place
        self.proving = proving
        self.record = record
        self.cache = cache
        self.idle = idle
        self._ops: Ops | None = None

    @property
    def ops(self) -> Ops:
        """The settled ops; there are none before `setup`."""
        assert self._ops is not None
        return self._ops

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if self._ops is not None:
            return
        choices = self.settle()
        if trainer.is_global_zero:
            log.info(in_short(choices))
            if self.place.device.type == "cuda":  # a CPU has none of the fast kernels, and the report says so
                for reason in dict.fromkeys(reason for choice in choices for reason in choice.reasons):
                    log.info("ops: %s", reason)

    def settle(self) -> list[Choice]:
        """Fill the table of ops and record what was decided; a collective."""
        # the run goes on with the random numbers that it would have without proofs and measurements
        with torch.random.fork_rng(devices=[self.place.device] if self.place.device.type == "cuda" else []):
            self._ops, choices = settle(
                self.config,
                self.place,
                proving=self.proving,
                ranks=TorchRanks(self.place.device),
                cache=self.cache,
                idle=self.idle,
                # of a resume; a new run has none yet
                before={op.op: op.used for op in self.record.ops},
            )
        self.record.ops = [op_record(choice) for choice in choices]
        if self.place.device.type == "cuda":
            # what proofs and measurements allocated must not stand in the way of the model, nor count as its peak
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.place.device)
        return choices


class TorchRanks:
    """Agreement over the process group, if there is one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def from_first(self, make: Callable[[], T]) -> T:
        return from_first(make, "the backends of the ops to be chosen")

    def everywhere(self, value: bool) -> bool:
        if not dist.is_initialized():
            return value
        flag = torch.tensor(int(value), device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MIN)
        return bool(flag.item())


def op_record(choice: Choice) -> OpRecord:
    """What the run record keeps of a choice."""
    return OpRecord(
        op=choice.op,
        asked=choice.asked,
        used=choice.used,
        reason="; ".join(choice.reasons) or None,
        detail=choice.detail,
        proofs=[_proof_record(proof) for proof in choice.proofs],
        times=[BackendTimeRecord(backend, time) for backend, time in choice.milliseconds.items()],
    )


def _proof_record(proof: Proof) -> ProofRecord:
    return ProofRecord(
        backend=proof.backend,
        case=proof.case,
        sizes=proof.sizes,
        dtype=proof.dtype,
        interpreted=proof.interpreted,
        seconds=proof.seconds,
        passed=proof.passed,
        differences=[
            DifferenceRecord(each.tensor, finite_or_none(each.distance), each.bound) for each in proof.differences
        ],
        error=proof.error,
    )
