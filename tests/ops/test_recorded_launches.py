"""What is compiled without a GPU is what is launched on one: each launch at the widths of a 3B Llama is stated."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from litespark.ops.compilation import ops_with_kernels

pytest.importorskip("triton")

COUNT = re.compile(r"^(\w+): (\d+) launches$", re.MULTILINE)
REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH_TOYS = """
import torch
from litespark.ops.triton_support import TARGETS
from tests.ops.recorded_launches import recorded, unstated
from tests.ops.toy_kernels.sound import compilations, copy

x, y = torch.ones(2048, dtype=torch.bfloat16), torch.zeros(2048, dtype=torch.bfloat16)
launches = {
    "as stated": lambda: copy[(1,)](x, y, 1024, BLOCK=1024),
    "odd": lambda: copy[(1,)](x, y, 1023, BLOCK=1024),
    "one": lambda: copy[(1,)](x, y, 1, BLOCK=1024),
    "address": lambda: copy[(1,)](x[1:], y, 1024, BLOCK=1024),
    "dtype": lambda: copy[(1,)](x.float(), y, 1024, BLOCK=1024),
    "constant": lambda: copy[(1,)](x, y, 1024, BLOCK=512),
    "warps": lambda: copy[(1,)](x, y, 1024, BLOCK=1024, num_warps=8),
    "stages": lambda: copy[(1,)](x, y, 1024, BLOCK=1024, num_stages=2),
}
for name, launch in launches.items():
    print(name, *unstated(recorded(launch), compilations(TARGETS["sm_90"])), sep=": ")
assert not y.any(), "a launch was made"
"""


def run_natively(*words: str) -> list[str]:
    """Lines that a Python process prints whose kernels are not interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
    ended = subprocess.run(
        [sys.executable, *words], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended.stdout.splitlines()


def test_launches_are_as_the_compilations_state():
    lines = run_natively("-m", "tests.ops.recorded_launches")
    counts = {op: int(count) for op, count in COUNT.findall("\n".join(lines))}
    assert counts.keys() == ops_with_kernels().keys()
    assert all(count >= 6 for count in counts.values()), counts  # forward and backward, in three modes
    assert [line for line in lines if not COUNT.search(line)] == []


def test_launches_unlike_the_compilations_are_caught():
    lines = run_natively("-c", LAUNCH_TOYS)
    said = dict(line.split(": copy is launched unlike copy bf16", 1) for line in lines[1:])
    assert lines[0] == "as stated"
    assert said == {
        "odd": ": n - and not [['tt.divisibility', 16]]",
        "one": ": n constexpr and not i32, n 1 and not -, n - and not [['tt.divisibility', 16]]",
        "address": ": x - and not [['tt.divisibility', 16]]",
        "dtype": ": x *fp32 and not *bf16",
        "constant": ": BLOCK 512 and not 1024",
        "warps": ": num_warps 8 and not 4",
        "stages": ": num_stages 2 and not -",
    }
