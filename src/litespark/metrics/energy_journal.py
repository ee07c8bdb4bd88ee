"""A small append-only file of energy totals, one JSON line a window.

A checkpoint has the joules of the steps it holds. What was burnt after it, and lost with the process, only this file
has; at most the time since its last line is missing from the all-in sum.
"""

import json
import logging
from pathlib import Path

from litespark.metrics.energy_totals import EnergyTotals

log = logging.getLogger(__name__)


class EnergyJournal:
    """The journal at ``path``, which need not exist; rank 0 writes the combined totals of all ranks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._failed = False

    def append(self, totals: EnergyTotals, time: str) -> None:
        """Add a line with the totals since the run began; a write that fails is logged once and stops no training."""
        try:
            with self.path.open("a") as stream:
                # the newline comes first: a process killed while writing leaves half a line
                stream.write("\n" + json.dumps({"time": time, "totals": totals.to_dict()}))
        except OSError as error:
            if not self._failed:
                log.warning("cannot write the energy journal %s (%s): after a crash, the joules of lost steps will be "
                            "missing from the all-in sum", self.path, error)  # fmt: skip
            self._failed = True

    def last(self) -> EnergyTotals | None:
        """The totals of the last whole line; None where there is none."""
        if not self.path.is_file():  # a pipe would never end
            return None
        for line in reversed(self.path.read_bytes().splitlines()):
            try:
                return EnergyTotals.from_dict(json.loads(line)["totals"])
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
        return None
