"""The state of a board is read by NVML's names, absent where it is not told, and reading it changes nothing."""

import pynvml
import pytest

from litespark.metrics import device_state as module
from litespark.metrics.device_state import device_state
from litespark.metrics.meters import NullMeter
from litespark.metrics.nvml import NvmlMeter
from litespark.metrics.records.origin import DeviceState
from tests.metrics.fake_nvml import Board, FakeNvml


def state_of(*boards: Board) -> DeviceState | None:
    return device_state(NvmlMeter([board.uuid for board in boards], FakeNvml(list(boards))))


def test_what_the_driver_tells_is_there_and_the_rest_is_absent():
    board = Board("GPU-a", clocks_mhz={1: 1755, 2: 2619}, celsius=63, limit_milliwatts=650_000, clock_event_reasons=0)
    assert state_of(board) == DeviceState(1755.0, 2619.0, 63.0, 650.0, [])
    board = Board("GPU-a", clocks_mhz={}, celsius=None, limit_milliwatts=None, clock_event_reasons=None)
    assert state_of(board) == DeviceState(None, None, None, None, None)


@pytest.mark.parametrize(
    ("bits", "names"),
    [(0x1, ["GpuIdle"]), (0x24, ["SwPowerCap", "SwThermalSlowdown"]), (0x1 << 20 | 0x8, ["HwSlowdown", "bit 20"])],
)
def test_reasons_are_named_by_their_bits(bits, names):
    assert state_of(Board("GPU-a", clock_event_reasons=bits)).throttle_reasons == names


def test_the_names_of_the_reasons_are_those_of_nvml():
    for bit, name in enumerate(module._CLOCK_EVENT_REASONS):
        assert getattr(pynvml, f"nvmlClocksThrottleReason{name}") == 1 << bit
    constants = (pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM, pynvml.NVML_TEMPERATURE_GPU)
    assert constants == (module._SM_CLOCK, module._MEMORY_CLOCK, module._CHIP_SENSOR)


def test_an_older_module_knows_the_reasons_by_their_older_name():
    class OlderNvml(FakeNvml):
        nvmlDeviceGetCurrentClocksEventReasons = property()  # asking for it raises AttributeError

        def nvmlDeviceGetCurrentClocksThrottleReasons(self, board):
            return board.clock_event_reasons

    meter = NvmlMeter(["GPU-a"], OlderNvml([Board("GPU-a", clock_event_reasons=4)]))
    assert device_state(meter).throttle_reasons == ["SwPowerCap"]


def test_the_first_readable_board_is_meant_and_without_one_there_is_no_state():
    assert state_of(Board("GPU-a", mig=True, celsius=1), Board("GPU-b", celsius=2)).temperature_celsius == 2.0
    assert state_of(Board("GPU-a", mig=True)) is None
    assert device_state(NullMeter("no device", "energy")) is None


def test_a_meter_answers_no_function_that_could_change_the_board():
    meter = NvmlMeter(["GPU-a"], FakeNvml([Board("GPU-a")]))
    with pytest.raises(ValueError, match="got nvmlDeviceSetPowerManagementLimit, expected nvmlDeviceGet"):
        meter.ask(0, "nvmlDeviceSetPowerManagementLimit", 1)
