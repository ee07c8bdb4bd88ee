"""The folder of logs, the machines and the package of a user's own that tests of runs have in common."""

import sys

import pytest
import torch

from litespark.device import Accelerator
from litespark.run.targets import ALLOWED_VARIABLE


@pytest.fixture
def logs(tmp_path):
    return f"paths.logs={tmp_path}/logs"


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def card(monkeypatch):
    """Sets what the GPUs of another machine are."""

    def be(capability: tuple[int, int] = (9, 0), *, bf16: bool = True, gibibytes: int = 141, count: int = 1) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "A Card")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(Accelerator, "memory_bytes", gibibytes * 2**30)

    return be


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of `mypkg`, outside of the project, importable and allowed."""
    folder = tmp_path / "path" / "mypkg"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setenv(ALLOWED_VARIABLE, "mypkg.")
    yield folder
    for name in [each for each in sys.modules if each.split(".")[0] == "mypkg"]:
        del sys.modules[name]
