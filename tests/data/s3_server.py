"""An S3 server on loopback (moto), and a proxy before it that cuts connections: tests speak the real protocol."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of the server; one for the session."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """`s3://BUCKET` of an empty bucket; the environment, also of processes started here, leads to the server."""
    speak_to(s3_server, monkeypatch, tmp_path)
    bucket = f"bucket-{next(_NUMBERS)}"
    s3_client(s3_server).create_bucket(Bucket=bucket)
    yield f"s3://{bucket}"
    forget_connections()


def speak_to(server: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Set the environment so that whoever reads `s3://` from now on asks this server and nobody else."""
    settings = {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(folder / "no_aws_config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no_aws_credentials"),
        "NO_PROXY": "127.0.0.1,localhost",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    forget_connections()


def forget_connections() -> None:
    """s3fs keeps a connection for each set of arguments, and would go on speaking to the server before."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def s3_client(server: str) -> Any:
    """A client of its own, that shares nothing with the code under test."""
    import boto3

    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=server, **keys)


def fill(server: str, bucket: str, folder: Path) -> None:
    """Put every file below a folder into a bucket (`s3://NAME` or `s3://NAME/PREFIX`), under its path below it."""
    name, _, prefix = bucket.removeprefix("s3://").partition("/")
    client = s3_client(server)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        key = path.relative_to(folder).as_posix()
        client.put_object(Bucket=name, Key=f"{prefix}/{key}" if prefix else key, Body=path.read_bytes())


class CuttingProxy:
    """Passes TCP connections on to a server, and cuts some of them in the middle of the answer.

    Args:
        server: `http://HOST:PORT`.
        cuts: so many answers are cut, the first ones that are longer than `after` bytes.
        after: bytes of an answer that still pass.

    Attributes:
        address: what to speak to instead of the server.
        cut: answers cut so far.
    """

    def __init__(self, server: str, *, cuts: int, after: int) -> None:
        host, port = server.removeprefix("http://").split(":")
        self._server = (host, int(port))
        self._left = cuts
        self._after = after
        self._lock = threading.Lock()
        self.cut = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_more(self, cuts: int) -> None:
        """Cut the next `cuts` answers, and count them from 0."""
        with self._lock:
            self._left, self.cut = cuts, 0

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            server = socket.create_connection(self._server)
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        passed = 0
        try:
            while block := source.recv(1 << 14):
                passed += len(block)
                if answers and passed > self._after and self._takes_a_cut():
                    break
                target.sendall(block)
        except OSError:
            pass  # the other direction has closed both
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _takes_a_cut(self) -> bool:
        with self._lock:
            if self._left == 0:
                return False
            self._left -= 1
            self.cut += 1
            return True
