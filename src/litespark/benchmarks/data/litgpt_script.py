"""litgpt's own preparation of SlimPajama, timed: run by the interpreter that has litgpt, which need not have Litespark.

Called as `python litgpt_script.py REQUEST ANSWER`, both JSON; imports nothing of ours for that reason. litgpt starts a
process for each core of the machine; here it is told of those that the benchmark may use.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path


def main(request_path: str, answer_path: str) -> None:
    """Prepare what the request names and write the time and the tokens."""
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: request["cores"]])
    os.cpu_count = lambda: request["cores"]
    from litgpt.data.prepare_slimpajama import prepare

    output = Path(request["output"])
    output.mkdir(parents=True)
    began, used = time.perf_counter(), _processor_seconds()
    prepare(input_dir=Path(request["source"]), output_dir=output, tokenizer_path=Path(request["tokenizer"]))
    seconds = time.perf_counter() - began
    answer = {
        "seconds": seconds,
        "cpu_seconds": _processor_seconds() - used,
        "tokens": sum(map(_tokens, output.glob("*.bin"))),
        "peak_bytes": max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        * 1024,
        "version": version("litgpt"),
        "litdata": version("litdata"),
    }
    Path(answer_path).write_text(json.dumps(answer), encoding="utf-8")


def _tokens(chunk: Path) -> int:
    """Ids in a chunk.

    It holds 32-bit numbers: how many documents, where each begins and the last ends, and each with its size and ids.
    """
    with chunk.open("rb") as file:
        documents = int.from_bytes(file.read(4), "little")
    return (chunk.stat().st_size - 4 * (2 * documents + 2)) // 4


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    main(*sys.argv[1:])
