"""Starts a measurement in a process of its own and reads its answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from litespark.benchmarks.child_process import end_group, how_it_ended, termination_raises

PROGRAM = (sys.executable, "-m", "litespark.benchmarks.data.process")


def launch(
    request: dict[str, Any], folder: Path, *, cores: int, timeout: float, program: Sequence[str] = PROGRAM
) -> dict[str, Any]:
    """Run `program REQUEST ANSWER` and wait for it.

    Args:
        request: what to measure; `cores` is added.
        folder: for the request, the answer and what the process prints; it is made.
        cores: as many threads has `tokenizers` there.
        timeout: seconds after which it is ended.
        program: the words before the two files.

    Raises:
        ValueError: it did not answer; the message holds the last line that it wrote.

    An interrupt or a termination of this process ends that one, and all that it started, first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asked, answer, printed = folder / "request.json", folder / "answer.json", folder / "printed"
    answer.unlink(missing_ok=True)
    asked.write_text(json.dumps({**request, "cores": cores}), encoding="utf-8")
    # one thread of linear algebra: there is none in the data, and idle pools only disturb
    environment = {**os.environ, "RAYON_NUM_THREADS": str(cores), "OMP_NUM_THREADS": "1"}
    with printed.open("w") as out, termination_raises():
        process = subprocess.Popen(
            [*program, str(asked), str(answer)], stdout=out, stderr=out, stdin=subprocess.DEVNULL,
            start_new_session=True, env=environment,
        )  # fmt: skip
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            end_group(process)
            raise ValueError(
                f"the measurement did not end within {timeout:g} s; give fewer --megabytes or a longer --timeout"
            ) from error
        except BaseException:
            end_group(process)
            raise
    if status != 0 or not answer.is_file():
        end_group(process)
        raise ValueError(f"the measurement {how_it_ended(status, printed)}")
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return found
