"""One measurement in a process of its own, as `python -m litespark.benchmarks.data.process REQUEST ANSWER`.

The request names the measurement, the cores it may use and its arguments; both files are JSON. A process of its own has
a peak of memory of its own, and threads that were not started with other settings.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from litespark.parent import end_with_parent


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_cores(count: int) -> None:
    """Keep this process and what it starts to the first `count` of its cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def measure(name: str, arguments: dict[str, Any]) -> Any:
    """The answer of the measurement `name`: encode, prepare or stream."""
    return _measure_of(name)(**arguments)


def _measure_of(name: str) -> Callable[..., Any]:
    # imported late: streaming takes torch and Lightning, of which the memory of a preparation must be free
    if name == "stream":
        from litespark.benchmarks.data.streaming import stream

        return stream
    from litespark.benchmarks.data import preparation

    if name == "prepare":
        return preparation.prepare_corpus
    return preparation.encode


def main(request: Path, answer: Path) -> None:
    """Answer a request."""
    asked = json.loads(request.read_text(encoding="utf-8"))
    end_with_parent()
    use_cores(asked["cores"])
    answer.write_text(json.dumps(measure(asked["measure"], asked["arguments"])), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
