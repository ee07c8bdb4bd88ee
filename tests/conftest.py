"""Before anything imports torch: its threads do not spin against other processes.

Before anything imports Triton: without a GPU its kernels run in the interpreter, on CPU tensors.

With one, the tests of ops run natively, as they are, and count among those for a GPU.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator

import pytest

from litespark.threads import decide_threads

decide_threads()

import torch  # noqa: E402

from tests import kept_compositions  # noqa: E402
from tests.process_state import as_before  # noqa: E402

ON_GPU = torch.cuda.is_available()
NATIVE = ("tests/ops",)
# what finds most faults: whole processes, resumes and parity with others; long too, and so early for two workers
FIRST = (
    "tests/end_to_end",
    "tests/cli/test_verify_resume.py",
    "tests/run/test_resume.py",
    "tests/training/test_two_ranks.py",
    "tests/models/llama/test_huggingface_parity.py",
    "tests/test_configs.py",
)

kept_compositions.keep()

if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"
    if importlib.util.find_spec("triton"):
        from tests import kept_patches

        kept_patches.keep()


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """After each test."""
    with as_before():
        yield


@pytest.fixture(autouse=True)
def precision_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU `precision=auto` is fp32: what a test computes does not depend on the speed of the machine."""
    if (module := sys.modules.get("litespark.run.measured_precision")) is not None:
        monkeypatch.setattr(module, "measured", lambda *_: module.MeasuredPrecision("fp32", "this is a test"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put those of `FIRST` first, in its order; the others stay as collected, folder by folder."""

    def among(item: pytest.Item, places: tuple[str, ...]) -> list[bool]:
        return [item.path.is_relative_to(config.rootpath / place) for place in places]

    items.sort(key=lambda item: (*among(item, FIRST), True).index(True))
    for item in items:
        if ON_GPU and any(among(item, NATIVE)):
            item.add_marker(pytest.mark.gpu)
