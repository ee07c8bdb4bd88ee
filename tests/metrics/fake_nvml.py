"""A stand-in for the ``pynvml`` module: boards with counters, which a test may take away."""

from dataclasses import dataclass, field


class NVMLError(Exception):
    """As in pynvml: the base of everything that NVML answers with instead of a value."""


@dataclass
class Board:
    uuid: str
    name: str = "NVIDIA H200"
    millijoules: int | None = 1000  # None: no energy counter
    limit_milliwatts: int | None = 700_000
    mig: bool = False
    lost: bool = False
    clocks_mhz: dict[int, int] = field(default_factory=lambda: {1: 1980, 2: 3201})  # by NVML's clock type
    celsius: int | None = 41
    clock_event_reasons: int | None = 0


ASKED = {
    "nvmlDeviceGetEnforcedPowerLimit": "limit_milliwatts",
    "nvmlDeviceGetTotalEnergyConsumption": "millijoules",
    "nvmlDeviceGetClockInfo": "clocks_mhz",
    "nvmlDeviceGetTemperature": "celsius",
    "nvmlDeviceGetCurrentClocksEventReasons": "clock_event_reasons",
}


@dataclass
class FakeNvml:
    boards: list[Board] = field(default_factory=list)
    NVMLError = NVMLError
    initialised = False

    def nvmlInit(self):
        self.initialised = True

    def nvmlSystemGetDriverVersion(self):
        return b"580.01"

    def nvmlDeviceGetHandleByUUID(self, uuid):
        for board in self.boards:
            if board.uuid == uuid:
                return board
        raise NVMLError("Not Found")

    def nvmlDeviceGetName(self, board):
        return board.name

    def nvmlDeviceGetMigMode(self, board):
        return (int(board.mig), int(board.mig))

    def __getattr__(self, name):
        """All that a lost board does not answer."""

        def answer(board, kind=None):
            if board.lost:
                raise NVMLError("GPU is lost")
            value = getattr(board, ASKED[name])
            if (value := value.get(kind) if isinstance(value, dict) else value) is None:
                raise NVMLError("Not Supported")
            return value

        if name not in ASKED:
            raise AttributeError(name)
        return answer
