"""Checkpoints that are written while training goes on, from a copy of what this rank writes in host memory."""

import logging
from dataclasses import replace
from threading import Thread

import torch
from torch import Tensor

from litespark.device import device_of
from litespark.mesh import Mesh
from litespark.training.checkpoint.state import Prepared

log = logging.getLogger(__name__)

_END_SECONDS = 600.0  # after an error elsewhere, a write that goes on is given so long


class Background:
    """Writes one checkpoint at a time in a thread; every rank calls each method at the same points.

    The thread has groups of its own to agree in: the collectives of two threads would meet in one.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh, self._apart = mesh, mesh.apart()
        self._staged: dict[str, Tensor] = {}
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def start(self, prepared: Prepared) -> None:
        """Copy the pieces, and write them from there; none is being written yet."""
        assert self._thread is None
        self._staged = {key: self._copied(key, tensor) for key, tensor in prepared.mine.items()}
        for device in {tensor.device for tensor in prepared.mine.values()}:
            device_of(device).synchronise()
        self._thread = Thread(
            target=self._write, args=(replace(prepared, mine=self._staged),), name="checkpoint", daemon=True
        )
        self._thread.start()

    def poll(self) -> None:
        """Raise the error of a write that has ended on all ranks; a collective while there is one."""
        if self._thread is not None and self._mesh.all(not self._thread.is_alive()):
            self.wait()

    def wait(self) -> None:
        """Return when nothing is being written; the error of one rank is raised on all."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
            error, self._error = self._error, None
            if error is not None:
                raise error

    def end(self) -> None:
        """Let a write end whose run has failed."""
        if self._thread is not None:
            self._thread.join(_END_SECONDS)
            if self._error is not None or self._thread.is_alive():
                log.error("the checkpoint that was being written is not complete: %s", self._error or "it takes long")

    def _write(self, prepared: Prepared) -> None:
        try:
            prepared.finish(self._apart)
        except BaseException as error:  # noqa: BLE001 (raised in the thread of the training)
            self._error = error

    def _copied(self, key: str, tensor: Tensor) -> Tensor:
        """A copy on the host, in the memory of the last one: pinned where it comes from a device."""
        copy = self._staged.get(key)
        if copy is None or (copy.shape, copy.dtype) != (tensor.shape, tensor.dtype):
            pinned = device_of(tensor.device).is_accelerator
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=pinned)
        return copy.copy_(tensor, non_blocking=True)
