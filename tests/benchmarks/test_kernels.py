"""The table of compiled kernels says what was compiled with what, and what does not fit."""

import re
from pathlib import Path

import pytest
import torch

from litespark.benchmarks import kernels
from litespark.benchmarks.kernels import compile_kernels
from litespark.ops.compilation import Attempt, Compiled, Resources
from litespark.ops.triton_support import TARGETS
from litespark.reports import kernels as reported
from litespark.reports.kernels import page

triton = pytest.importorskip("triton")

RESULTS = Path(__file__).resolve().parents[2] / "results" / "kernels"
FITS = Attempt("norm_kernel", "norm_kernel bf16 D64", "sm_90", Resources(40, 0, 1024), None, 0.5)
TOO_LARGE = Attempt("norm_kernel", "backward bf16 D64", "sm_86", Resources(255, 8, 102_400), None, 0.5)
TOO_WIDE = Attempt("dot_kernel", "dot", "sm_100", Resources(64, 0, 0, tensor_memory_columns=1024), None, 0.5)
BROKEN = Attempt("dot_kernel", "dot bf16", "gfx942", None, "CompilationError: at 3:4\n  wrong\ndtype", 0.1)


def table(*attempts: Attempt) -> Compiled:
    return Compiled("litespark kernels --all", attempts)


def test_each_configuration_is_a_row_with_its_limit_and_what_does_not_fit_a_line(monkeypatch):
    monkeypatch.setattr(reported, "git_state", lambda folder: ("0123456789abcdef", True))
    whole = table(FITS, TOO_LARGE, TOO_WIDE, BROKEN)
    assert whole.misfits == [
        "backward bf16 D64 takes 102400 bytes of shared memory on sm_86, which has 101376",
        "dot takes 1024 columns of tensor memory on sm_100, which has 512",
        "dot bf16 does not compile for gfx942: CompilationError: at 3:4 wrong dtype",
    ]
    text = page(whole)
    for expected in (
        "`litespark kernels --all`", "commit 0123456789ab with changes", f"torch {torch.__version__}",
        f"triton {triton.__version__}", "| norm_kernel | bf16 D64 | sm_90 | 40 | 0 | 1024 | 232448 |",
        "| norm_kernel | backward bf16 D64 | sm_86 | 255 | 8 | 102400 | 101376 |",
        "| dot_kernel | dot bf16 | gfx942 | - | - | - | 65536 |", "\n- dot bf16 does not compile for gfx942",
    ):  # fmt: skip
        assert expected in text
    assert table(FITS).misfits == []
    assert "Not to be launched" not in page(table(FITS))


@pytest.fixture
def compiling(monkeypatch):
    """As if the kernels of this process were not interpreted; nothing is compiled all the same."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(kernels, "compilations", lambda modules, targets, every: iter(()))


def test_names_are_in_the_command_of_the_table_and_unknown_ones_refused(compiling, monkeypatch):
    assert compile_kernels().command == "litespark kernels"
    again = compile_kernels(ops=["rms_norm"], targets=["sm_90", "sm_86"], every=True).command
    assert again == "litespark kernels --op rms_norm --target sm_90 --target sm_86 --all"
    with pytest.raises(ValueError, match=r"--target: got sm_91, expected some of: sm_80, .*gfx942"):
        compile_kernels(targets=["sm_90", "sm_91"])
    with pytest.raises(ValueError, match=r"--op: got norm, expected some of: .*rms_norm"):
        compile_kernels(ops=["norm"])
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"Triton is not installed.*pip install triton"):
        compile_kernels()


def test_an_op_without_kernels_for_a_target_is_told_and_no_failure(compiling, monkeypatch):
    monkeypatch.setattr(kernels, "ops_with_kernels", lambda: {"choosy": "tests.ops.toy_kernels.choosy"})
    said: list[str] = []
    found = compile_kernels(targets=["sm_90", "sm_80"], say=said.append)
    assert said == list(found.exclusions) == ["choosy is not for sm_80: no fp8 units, which came with sm_89 (Ada)"]
    assert found.misfits == []
    assert page(found).endswith(f"\nNot compiled:\n\n- {said[0]}\n")


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.md")), ids=lambda path: path.name)
def test_a_committed_table_is_whole(path):
    text = path.read_text()
    assert "`litespark kernels`" in text
    assert re.search(r"\(commit [0-9a-f]{12}\)", text), "made from a commit, without changes"
    assert f"triton {path.stem}," in text
    assert "Not to be launched" not in text
    compiled = {}
    for kernel, target in re.findall(r"^\| (\w+) \|.*?\| (sm_\w+|gfx\w+) \|", text, re.MULTILINE):
        compiled.setdefault(kernel, set()).add(target)
    with_fp8 = {name for name, target in TARGETS.items() if target.without_fp8 is None}
    assert all(targets in (set(TARGETS), with_fp8) for targets in compiled.values()), compiled
    told = re.findall(r"^- \w+ is not for (\w+): .*fp8", text, re.MULTILINE)
    assert set(told) == (set(TARGETS) - with_fp8 if with_fp8 in compiled.values() else set())


@pytest.mark.parametrize("path", sorted(RESULTS.glob("sm_*/*.md")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_committed_table_of_all_configurations_has_more_than_one_of_most_kernels(path):
    text, target = path.read_text(), path.parent.name
    assert f"`litespark kernels --target {target} --all`" in text
    assert "Not to be launched" not in text
    assert re.search(r"\(commit [0-9a-f]{12}\)", text), "made from a commit, without changes"
    kernels_of = re.findall(rf"^\| (\w+) \| .*\| {target} \|", text, re.MULTILINE)
    with_fp8 = {"cast_kernel", "swiglu_fp8_backward_kernel"} if TARGETS[target].without_fp8 is None else set()
    assert {"attention_forward_kernel", "rms_norm_backward_kernel"} | with_fp8 <= set(kernels_of)
    assert len(kernels_of) > 5 * len(set(kernels_of))
