"""What the tests of this folder share: a prepared corpus that is only read, and an S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from litespark.data.prepare.prepare import prepare
from tests.data.corpus import config, documents, write_texts
from tests.data.s3_server import s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 documents in chunks of 100 tokens; read only."""
    folder = tmp_path_factory.mktemp("corpus")
    return prepare(config(write_texts(folder / "text", documents(40)), folder / "prepared"), progress=False)
