"""`litespark kernels` compiles without a GPU, and refuses where kernels are interpreted."""

import os
import subprocess
import sys

import pytest

from litespark.benchmarks import kernels
from litespark.benchmarks.kernels import KernelTable
from litespark.cli import main
from litespark.ops.compilation import Attempt, Resources

pytest.importorskip("triton")


def compiled(shared_bytes: int) -> KernelTable:
    attempt = Attempt("norm_kernel", "norm", "sm_86", Resources(40, 0, shared_bytes), None, 0.5)
    return KernelTable("litespark kernels", (attempt,))


def test_it_prints_one_table(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-m", "litespark.cli", "kernels", "--op", "rms_norm", "--target", "sm_90"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    rows = [line for line in ended.stdout.splitlines() if line.startswith("| ")]
    assert rows[0].startswith("| kernel | configuration | target | registers | stack bytes |")
    assert len(rows) > 2
    assert all("| sm_90 |" in row for row in rows[1:])


def test_it_writes_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kernels, "compile_kernels", lambda *names, **options: compiled(64))
    output = tmp_path / "new" / "table.md"
    assert main(["kernels", "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"table: {output}\n"
    assert output.read_text() == compiled(64).markdown()


def test_a_folder_that_cannot_be_made_is_an_error_before_anything_is_compiled(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kernels, "compile_kernels", lambda *names, **options: pytest.fail("it compiled"))
    (tmp_path / "file").write_text("")
    assert main(["kernels", "--output", str(tmp_path / "file" / "table.md")]) == 1
    assert "file" in capsys.readouterr().err


def test_a_kernel_that_does_not_fit_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(kernels, "compile_kernels", lambda *names, **options: compiled(200_000))
    assert main(["kernels"]) == 1
    said = capsys.readouterr()
    assert "takes 200000 bytes of shared memory on sm_86" in said.err
    assert "| norm_kernel |" in said.out


def test_interpreted_kernels_are_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert main(["kernels"]) == 1
    assert capsys.readouterr().err == (
        "litespark kernels: TRITON_INTERPRET is set, so that kernels are interpreted and not compiled; unset it\n"
    )
