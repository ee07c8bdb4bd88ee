"""Before anything imports torch: its threads do not spin against other processes.

Before anything imports Triton: without a GPU its kernels run in the interpreter, on CPU tensors.

With one, the tests of ops run natively, as they are, and count among those for a GPU.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from litespark.threads import decide_threads

decide_threads()

import torch  # noqa: E402

from tests import kept_compositions  # noqa: E402
from tests.process_state import as_before  # noqa: E402

ON_GPU = torch.cuda.is_available()
NATIVE = (Path("tests/ops"),)

kept_compositions.keep()

if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """After each test."""
    with as_before():
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not ON_GPU:
        return
    for item in items:
        path = item.path.relative_to(config.rootpath)
        if any(path.is_relative_to(place) for place in NATIVE):
            item.add_marker(pytest.mark.gpu)
