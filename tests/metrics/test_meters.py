"""Each meter reads the right physical devices once, and says why where it cannot."""

import sys
from types import SimpleNamespace

import pynvml
import pytest
import torch

from litespark.metrics import meters, nvml
from litespark.metrics.meters import NullMeter, RaplMeter, choose_meter
from litespark.metrics.nvml import COUNTER_METHOD, NvmlMeter
from litespark.metrics.records.origin import DeviceState
from tests.metrics.fake_nvml import Board, FakeNvml, NVMLError


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_boards_are_matched_by_uuid_and_not_by_position():
    fake = FakeNvml([Board("GPU-a", millijoules=1), Board("GPU-b", millijoules=2), Board("GPU-c", millijoules=3)])
    meter = NvmlMeter(["GPU-c", "GPU-a"], fake)
    assert meter.read().millijoules == (3, 1)
    assert [device.key for device in meter.devices] == ["GPU-c", "GPU-a"]
    assert meter.devices[0].power_cap_watts == 700.0
    assert (meter.label, meter.method, meter.reason) == ("GPU board energy", COUNTER_METHOD, None)
    assert meter.driver() == "580.01"
    fake.boards[2].lost = True
    assert meter.read().millijoules == (None, 1)
    fake.boards[2].lost = False
    assert meter.read().millijoules == (3, 1)


@pytest.mark.parametrize(
    ("board", "reason"),
    [
        (Board("GPU-b"), "GPU-a"),  # not the one that is asked for
        (Board("GPU-a", mig=True), "MIG"),
        (Board("GPU-a", name="NVIDIA H100 80GB HBM3 MIG 1g.10gb"), "MIG"),
        (Board("GPU-a", millijoules=None), "has no energy counter"),
    ],
)
def test_a_board_that_cannot_be_read_stays_listed_with_the_reason(board, reason):
    meter = NvmlMeter(["GPU-a"], FakeNvml([board]))
    assert (meter.read().millijoules, meter.method) == ((None,), None)
    assert reason in meter.reason


@pytest.mark.parametrize(
    ("bits", "names"), [(0x1, ["GpuIdle"]), (0x1 << 20 | 0x24, ["SwPowerCap", "SwThermalSlowdown", "bit 20"])]
)
def test_the_state_of_the_first_readable_board_has_what_its_driver_tells(bits, names):
    told = Board("GPU-a", clocks_mhz={1: 1755, 2: 2619}, celsius=63, limit_milliwatts=650_000, clock_event_reasons=bits)
    split = Board("GPU-split", mig=True, celsius=1)
    meter = NvmlMeter(["GPU-split", "GPU-a"], FakeNvml([split, told]))
    assert meter.device_state() == DeviceState(1755.0, 2619.0, 63.0, 650.0, names)
    silent = Board("GPU-a", clocks_mhz={}, celsius=None, limit_milliwatts=None, clock_event_reasons=None)
    assert NvmlMeter(["GPU-a"], FakeNvml([silent])).device_state() == DeviceState()
    assert NvmlMeter(["GPU-split"], FakeNvml([split])).device_state() is None


def test_names_and_constants_are_those_of_nvml():
    for bit, name in enumerate(nvml._CLOCK_EVENT_REASONS):
        assert getattr(pynvml, f"nvmlClocksThrottleReason{name}") == 1 << bit
    constants = (pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM, pynvml.NVML_TEMPERATURE_GPU)
    assert constants == (nvml._SM_CLOCK, nvml._MEMORY_CLOCK, nvml._CHIP_SENSOR)


RANGE = 262_143_328_850


def write_domain(root, folder, name, microjoules):
    domain = root / folder
    domain.mkdir(parents=True)
    (domain / "name").write_text(f"{name}\n")
    (domain / "energy_uj").write_text(f"{microjoules}\n")
    (domain / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return domain / "energy_uj"


def test_rapl_sums_packages_and_leaves_out_parts_and_platform(tmp_path, clock):
    first = write_domain(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    second = write_domain(tmp_path, "intel-rapl:1", "package-1", 9_000_000)
    write_domain(tmp_path, "intel-rapl:0:0", "core", 1)
    write_domain(tmp_path, "intel-rapl:2", "psys", 1)
    write_domain(tmp_path, "intel-rapl-mmio:0", "package-0", 1)
    meter = RaplMeter(tmp_path, clock)
    assert [device.name for device in meter.devices] == ["package-0", "package-1"]
    before = meter.read().millijoules
    clock.now += 1
    first.write_text("6500000\n")
    second.write_text("9250000\n")
    after = meter.read().millijoules
    assert [b - a for a, b in zip(before, after, strict=True)] == [1500, 250]


def test_rapl_undoes_one_wrap_of_its_counter_and_leaves_a_gap_where_there_may_be_two_or_it_is_lost(tmp_path, clock):
    counter = write_domain(tmp_path, "intel-rapl:0", "package-0", RANGE - 1_000_000)
    meter = RaplMeter(tmp_path, clock)
    (before,) = meter.read().millijoules
    clock.now += 10
    counter.write_text("999999999\n")
    # 1 J up to the range, one step to 0, and what was counted since
    assert meter.read().millijoules == (before + 1001_000,)
    clock.now += 1 + RANGE / 1e6 / 1000  # at 1000 W
    assert meter.read().millijoules == (None,)
    clock.now += 1
    assert meter.read().millijoules != (None,)
    counter.unlink()
    assert meter.read().millijoules == (None,)


CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_a_cpu_run_reads_rapl_on_local_rank_zero_or_says_why_not(tmp_path):
    meter = choose_meter(CPU, powercap=tmp_path / "absent")
    assert "no RAPL counters" in meter.reason
    assert meter.read().millijoules == (None,), "it counts as uncovered"
    assert "no RAPL package domain" in choose_meter(CPU, powercap=tmp_path).reason
    write_domain(tmp_path, "intel-rapl:0", "package-0", 0)
    reader, other = choose_meter(CPU, powercap=tmp_path), choose_meter(CPU, local_rank=1, powercap=tmp_path)
    assert isinstance(reader, RaplMeter)
    assert (reader.label, other.label, other.devices) == ("CPU package energy", "CPU package energy", ())
    assert "local rank 0" in other.reason


def test_a_root_only_counter_says_what_to_do(tmp_path, monkeypatch):
    def refuse(powercap):
        raise PermissionError(13, "Permission denied", "/sys/class/powercap/intel-rapl:0/energy_uj")

    monkeypatch.setattr(meters, "RaplMeter", refuse)
    reason = choose_meter(CPU, powercap=tmp_path).reason
    assert "energy_uj is readable by root only" in reason
    assert "chmod a+r" in reason


@pytest.mark.parametrize("uuid", ["b", "GPU-b"])
def test_a_gpu_run_reads_the_board_that_torch_computes_on(monkeypatch, uuid):
    fake = FakeNvml([Board("GPU-a", millijoules=1), Board("GPU-b", millijoules=2)])
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: SimpleNamespace(uuid=uuid))
    assert choose_meter(GPU).read().millijoules == (2,)
    assert fake.initialised


def test_ranks_that_share_a_board_leave_it_to_the_lowest(monkeypatch):
    boards = ["GPU-a", "GPU-a", "GPU-b"]
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml([Board(uuid) for uuid in ("GPU-a", "GPU-b")]))
    read, asked = [], []
    for rank, board in enumerate(boards):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place, board=board: SimpleNamespace(uuid=board))
        meter = choose_meter(GPU, lower=lambda mine, rank=rank: asked.append(mine) or boards[:rank])
        read.append([each.key for each in meter.devices])
    assert read == [["GPU-a"], [], ["GPU-b"]]
    assert asked == boards  # a collective: each rank tells its own


def test_a_gpu_run_without_nvml_says_why_and_counts_as_uncovered(monkeypatch):
    def refuse():
        raise NVMLError("Driver Not Loaded")

    fake = FakeNvml()
    fake.nvmlInit = refuse
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: SimpleNamespace(uuid="GPU-a"))
    for module, reason in ((fake, "NVML cannot be used here: Driver Not Loaded"), (None, "pip install nvidia-ml-py")):
        monkeypatch.setitem(sys.modules, "pynvml", module)
        meter = choose_meter(GPU)
        assert isinstance(meter, NullMeter)
        assert reason in meter.reason
        assert meter.read().millijoules == (None,)


def test_other_accelerators_have_no_meter_and_are_named(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.2")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: "AMD Instinct MI300X")
    meter = choose_meter(GPU)
    assert "AMD Instinct MI300X" in meter.reason
    assert meter.read().millijoules == (None,)
