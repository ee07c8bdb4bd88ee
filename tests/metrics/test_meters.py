"""Each meter reads the right physical devices once, and says why where it cannot."""

import importlib
import os
import time

import pytest
import torch

from litespark.metrics import meters, nvml
from litespark.metrics.energy import EnergyLedger
from litespark.metrics.energy_totals import combine
from litespark.metrics.meters import NullMeter, RaplMeter, assign_devices, choose_meter
from litespark.metrics.nvml import COUNTER_METHOD, POWER_METHOD, NvmlMeter, PowerIntegral, visible_device_uuids
from tests.metrics.fake_meter import FakeMeter
from tests.metrics.fake_nvml import Board, FakeNvml, NVMLError


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


# --- NVML -----------------------------------------------------------------------------------------------------------


def test_boards_are_matched_by_uuid_and_not_by_position():
    fake = FakeNvml([Board("GPU-a", millijoules=1), Board("GPU-b", millijoules=2), Board("GPU-c", millijoules=3)])
    meter = NvmlMeter(["GPU-c", "GPU-a"], fake)
    assert meter.read().millijoules == (3, 1)
    assert [device.key for device in meter.devices] == ["GPU-c", "GPU-a"]
    assert meter.devices[0].power_cap_watts == 700.0
    assert (meter.label, meter.method, meter.reason) == ("GPU board energy", COUNTER_METHOD, None)
    assert meter.driver() == "580.01"


def test_a_board_lost_in_the_run_reads_none_and_may_come_back():
    fake = FakeNvml([Board("GPU-a"), Board("GPU-b", millijoules=7)])
    meter = NvmlMeter(["GPU-a", "GPU-b"], fake)
    fake.boards[0].lost = True
    assert meter.read().millijoules == (None, 7)
    fake.boards[0].lost = False
    assert meter.read().millijoules == (1000, 7)


def test_an_unknown_uuid_stays_listed_so_that_the_coverage_shows_it():
    meter = NvmlMeter(["GPU-a", "GPU-x"], FakeNvml([Board("GPU-a")]))
    assert meter.read().millijoules == (1000, None)
    assert "GPU-x" in meter.reason


@pytest.mark.parametrize("board", [Board("GPU-a", mig=True), Board("GPU-a", name="NVIDIA H100 80GB HBM3 MIG 1g.10gb")])
def test_a_mig_slice_is_refused_with_the_reason(board):
    meter = NvmlMeter(["GPU-a"], FakeNvml([board]))
    assert meter.read().millijoules == (None,)
    assert meter.method is None
    assert "MIG" in meter.reason


def test_power_is_integrated_only_where_the_counter_is_missing(clock):
    fake = FakeNvml([Board("GPU-a", millijoules=10), Board("GPU-old", millijoules=None, milliwatts=200_000)])
    meter = NvmlMeter(["GPU-a", "GPU-old"], fake, clock=clock, sample=False)
    for milliwatts in (200_000, 400_000):
        clock.now += 0.1
        fake.boards[1].milliwatts = milliwatts
        meter.sample_power()
    # trapezoids: 0.1 s at 200 W, 0.1 s at 300 W
    assert meter.read().millijoules == (10, pytest.approx(50_000, abs=1))
    assert meter.method == f"{COUNTER_METHOD} and {POWER_METHOD}"


def test_the_sampling_thread_reaches_ten_hertz_and_ends_on_close():
    fake = FakeNvml([Board("GPU-old", millijoules=None, milliwatts=100_000)])
    meter = NvmlMeter(["GPU-old"], fake)
    before = meter.read()
    time.sleep(0.5)
    after = meter.read()
    meter.close()
    assert not meter._thread.is_alive()
    assert nvml.POWER_HERTZ >= 10
    used = (after.millijoules[0] - before.millijoules[0]) / 1000
    assert used == pytest.approx(100 * (after.seconds - before.seconds), abs=20)


def test_a_hole_between_power_samples_is_a_gap_and_not_a_guess():
    integral = PowerIntegral()
    assert integral.read() is None
    for seconds, milliwatts in ((0.0, 1000.0), (0.1, 1000.0)):
        integral.add(seconds, milliwatts)
    assert integral.read() == 100
    integral.add(5.0, 1000.0)
    assert integral.read() is None
    integral.add(5.1, 1000.0)
    assert integral.read() == 200
    integral.add(5.2, None)
    assert integral.read() is None


def test_a_board_with_neither_counter_nor_power_says_so():
    meter = NvmlMeter(["GPU-a"], FakeNvml([Board("GPU-a", millijoules=None, milliwatts=None)]))
    assert meter.read().millijoules == (None,)
    assert "neither energy nor power" in meter.reason


def test_two_ranks_on_one_host_count_each_board_once(clock):
    fake = FakeNvml([Board("GPU-a", millijoules=0), Board("GPU-b", millijoules=0)])
    ledgers = [EnergyLedger(NvmlMeter([uuid], fake, clock=clock)) for uuid in ("GPU-a", "GPU-b")]
    for ledger in ledgers:
        ledger.switch("train")
    clock.now += 10
    fake.boards[0].millijoules += 3_000_000
    fake.boards[1].millijoules += 2_000_000
    for ledger in ledgers:
        ledger.settle()
    assert combine(ledger.totals for ledger in ledgers).train_joules == 5000.0


def test_ranks_that_share_a_board_leave_it_to_the_lowest():
    assert assign_devices([["GPU-a"], ["GPU-a"], ["GPU-b", "GPU-a"], ["GPU-c", "GPU-c"]]) == [
        ("GPU-a",),
        (),
        ("GPU-b",),
        ("GPU-c",),
    ]


# --- which boards are visible ---------------------------------------------------------------------------------------

UUIDS = ["GPU-11aa", "GPU-12bb", "GPU-3333"]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (None, UUIDS),
        ("", []),
        ("-1", []),
        ("2,0", ["GPU-3333", "GPU-11aa"]),
        (" 1 , 2 ", ["GPU-12bb", "GPU-3333"]),
        ("GPU-3333", ["GPU-3333"]),
        ("GPU-12,GPU-3", ["GPU-12bb", "GPU-3333"]),
        ("0,7,1", ["GPU-11aa"]),  # CUDA stops at the first entry that names nothing
        ("GPU-1,0", []),  # two boards begin like this
        ("1,-1,2", ["GPU-12bb"]),
    ],
)
def test_visible_devices_are_resolved_as_cuda_does(selection, expected):
    environment = {} if selection is None else {"CUDA_VISIBLE_DEVICES": selection}
    assert visible_device_uuids(FakeNvml([Board(uuid) for uuid in UUIDS]), environment) == expected


def test_ordinals_among_different_boards_need_the_bus_order():
    fake = FakeNvml([Board("GPU-a", name="NVIDIA L4"), Board("GPU-b", name="NVIDIA H200")])
    with pytest.raises(ValueError, match=r"ordinal 0 on a machine with different GPUs, expected UUIDs"):
        visible_device_uuids(fake, {"CUDA_VISIBLE_DEVICES": "0"})
    by_bus = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert visible_device_uuids(fake, by_bus) == ["GPU-b"]
    assert visible_device_uuids(fake, {"CUDA_VISIBLE_DEVICES": "GPU-a"}) == ["GPU-a"]


def test_a_mig_slice_among_the_visible_devices_is_refused():
    with pytest.raises(ValueError, match=r"got the MIG slice MIG-1/2/3, expected whole GPUs"):
        visible_device_uuids(FakeNvml([Board("GPU-a")]), {"CUDA_VISIBLE_DEVICES": "MIG-1/2/3"})


def test_the_process_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert visible_device_uuids(FakeNvml([Board("GPU-a"), Board("GPU-b")])) == ["GPU-b"]


# --- RAPL -----------------------------------------------------------------------------------------------------------

RANGE = 262_143_328_850


def write_domain(root, folder, name, microjoules, limit=250_000_000):
    domain = root / folder
    domain.mkdir(parents=True)
    (domain / "name").write_text(f"{name}\n")
    (domain / "energy_uj").write_text(f"{microjoules}\n")
    (domain / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (domain / "constraint_0_power_limit_uw").write_text(f"{limit}\n")
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


def test_rapl_undoes_the_wrap_of_its_counter(tmp_path, clock):
    counter = write_domain(tmp_path, "intel-rapl:0", "package-0", RANGE - 1_000_000)
    ledger = EnergyLedger(RaplMeter(tmp_path, clock))
    ledger.switch("train")
    clock.now += 10
    counter.write_text("999999999\n")
    ledger.settle()
    # 1 J up to the range, one step to 0, and what was counted since
    assert ledger.totals.train.millijoules == 1001_000
    assert ledger.totals.dropped_readings == 0


def test_rapl_leaves_a_gap_where_the_counter_may_have_wrapped_twice(tmp_path, clock):
    write_domain(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = RaplMeter(tmp_path, clock)
    meter.read()
    clock.now += 1 + RANGE / 1e6 / 1000  # at 1000 W
    assert meter.read().millijoules == (None,)
    clock.now += 1
    assert meter.read().millijoules == (0,)


def test_rapl_lost_in_the_run_is_a_gap(tmp_path, clock):
    counter = write_domain(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = RaplMeter(tmp_path, clock)
    meter.read()
    counter.unlink()
    assert meter.read().millijoules == (None,)


# --- the choice -----------------------------------------------------------------------------------------------------


def test_a_cpu_run_reads_rapl_and_only_on_local_rank_zero(tmp_path):
    write_domain(tmp_path, "intel-rapl:0", "package-0", 0)
    reader = choose_meter("cpu", powercap=tmp_path)
    other = choose_meter("cpu", local_rank=1, powercap=tmp_path)
    assert isinstance(reader, RaplMeter)
    assert reader.label == other.label == "CPU package energy"
    assert other.devices == ()
    assert "local rank 0" in other.reason


def test_a_machine_without_rapl_says_so_and_counts_as_uncovered(tmp_path):
    meter = choose_meter("cpu", powercap=tmp_path / "absent")
    assert isinstance(meter, NullMeter)
    assert "no RAPL counters" in meter.reason
    assert meter.read().millijoules == (None,)


def test_an_empty_powercap_tree_says_so(tmp_path):
    assert "no RAPL package domain" in choose_meter("cpu", powercap=tmp_path).reason


def test_a_root_only_counter_says_what_to_do(tmp_path, monkeypatch):
    def refuse(powercap):
        raise PermissionError(13, "Permission denied", "/sys/class/powercap/intel-rapl:0/energy_uj")

    monkeypatch.setattr(meters, "RaplMeter", refuse)
    reason = choose_meter("cpu", powercap=tmp_path).reason
    assert "energy_uj is readable by root only" in reason
    assert "chmod a+r" in reason


def use_fake_nvml(monkeypatch, fake):
    real = importlib.import_module
    monkeypatch.setattr(nvml.importlib, "import_module", lambda name: fake if name == "pynvml" else real(name))


def test_a_gpu_run_reads_the_boards_that_torch_uses(monkeypatch):
    class Properties:
        uuid = "b"

    fake = FakeNvml([Board("GPU-a", millijoules=1), Board("GPU-b", millijoules=2)])
    use_fake_nvml(monkeypatch, fake)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties())
    meter = choose_meter("cuda", device_indices=[0])
    assert fake.initialised
    assert meter.read().millijoules == (2,)


def test_where_torch_tells_no_uuid_the_environment_does(monkeypatch):
    def unknown(index):
        raise RuntimeError("no CUDA")

    use_fake_nvml(monkeypatch, FakeNvml([Board("GPU-a", millijoules=1), Board("GPU-b", millijoules=2)]))
    monkeypatch.setattr(torch.cuda, "get_device_properties", unknown)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b")
    assert choose_meter("cuda", device_indices=[0]).read().millijoules == (2,)
    meter = choose_meter("cuda", device_indices=[1])
    assert "got ordinals [1], expected fewer than 1" in meter.reason
    assert meter.read().millijoules == (None,)


def test_a_gpu_run_without_the_driver_says_why_and_counts_as_uncovered(monkeypatch):
    class NoDriver(FakeNvml):
        def nvmlInit(self):
            raise NVMLError("Driver Not Loaded")

    use_fake_nvml(monkeypatch, NoDriver())
    meter = choose_meter("cuda", uuids=["GPU-a", "GPU-b"])
    assert isinstance(meter, NullMeter)
    assert meter.reason == "NVML cannot be used here: Driver Not Loaded"
    assert meter.read().millijoules == (None, None)


def test_a_gpu_run_without_the_package_says_what_to_install(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(nvml.importlib, "import_module", absent)
    assert "pip install nvidia-ml-py" in choose_meter("cuda", uuids=["GPU-a"]).reason


def test_other_devices_have_no_meter():
    assert "'mps'" in choose_meter("mps").reason


def test_amd_gpus_are_named_as_not_read(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert "AMD" in choose_meter("cuda").reason


def test_the_fake_meter_integrates_its_power(clock):
    meter = FakeMeter([10.0, 20.0], clock)
    clock.now += 2
    assert meter.read().millijoules == (20_000, 40_000)
