"""The environment section tells what it can and leaves the rest None."""

import subprocess
from types import SimpleNamespace

import torch

from litespark.metrics.environment import collect_environment, git_state, uuid_hash, version_of
from litespark.metrics.nvml import NvmlMeter
from tests.metrics.fake_nvml import Board, FakeNvml


def test_a_cpu_run_has_versions_and_its_processor():
    record = collect_environment(torch.device("cpu"), world_size=2, precision="32-true")
    assert record.torch == torch.__version__
    assert record.lightning
    assert (record.world_size, record.precision, record.driver) == (2, "32-true", None)
    assert [device.name for device in record.devices] == [record.cpu]


def test_a_gpu_run_has_its_name_hashed_uuid_power_limit_and_driver(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: SimpleNamespace(uuid="1234-abcd"))
    meter = NvmlMeter(["GPU-1234-abcd"], FakeNvml([Board("GPU-1234-abcd", limit_milliwatts=650_000)]))
    record = collect_environment(torch.device("cuda", 0), precision="bf16-mixed", meter=meter)
    (device,) = record.devices
    assert (device.name, device.power_limit_watts, record.driver) == ("NVIDIA H200", 650.0, "580.01")
    assert device.uuid_hash == uuid_hash("GPU-1234-abcd")
    assert "1234" not in device.uuid_hash
    assert version_of("no-such-distribution-anywhere") is None


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_commit_and_dirtiness_of_a_repository(tmp_path, monkeypatch):
    git(tmp_path, "init")
    assert git_state(tmp_path) == (None, None), "no commit yet"
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "first")
    commit, dirty = git_state(tmp_path)
    assert len(commit) == 40
    assert dirty is False
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "record.json").write_text("{}")
    (tmp_path / "src").mkdir()
    assert git_state(tmp_path / "src") == (commit, False), "a record is no change of the code"
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == git_state(tmp_path / "src") == (commit, True)
    assert git_state(tmp_path / "absent") == (None, None)
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) == (None, None)
