"""Tokenizers by their name on the hub, over HTTP to a server of this test."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from litespark.data.tokenizer import Tokenizer
from litespark.data.tokenizer_files import is_hub_name
from tests.data.corpus import documents

COMMIT = "0123456789" * 4
LOAD = "import sys; from litespark.data.tokenizer import Tokenizer; print(Tokenizer.load(sys.argv[1]).hash)"


class Hub(ThreadingHTTPServer):
    """Serves the files of one folder as `owner/name` the way the hub does; notes what it is asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: set[str] = set()
        self.withheld = ""
        """A file that is not handed out, though it is there."""


class Handler(BaseHTTPRequestHandler):
    """`/owner/name/resolve/REVISION/FILE`, and 404 with the hub's header for what is not there."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.wfile.write(self.answer())

    def answer(self) -> bytes:
        hub = self.server
        assert isinstance(hub, Hub)
        name = self.path.rsplit("/", 1)[-1]
        if self.path.startswith("/owner/"):  # the client's own questions are none of ours
            hub.asked.add(self.path)
        known = self.path.startswith(("/owner/name/resolve/main/", "/owner/name/resolve/v1/"))
        path = hub.folder / name
        if not known or not path.is_file():
            self.headed(404, {"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"})
            return b""
        if name == hub.withheld:
            self.headed(403, {})
            return b""
        content = path.read_bytes()
        self.headed(200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}, len(content))
        return content

    def headed(self, status: int, headers: dict[str, str], size: int = 0) -> None:
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": COMMIT, "Content-Length": str(size)}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    (tmp_path / "served").mkdir()
    Tokenizer.train(documents(50), vocab_size=300).save(tmp_path / "served")
    (tmp_path / "served/tokenizer.py").write_text("raise SystemExit('code of a stranger')")
    server = Hub(tmp_path / "served")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def load(hub: Hub, tmp_path: Path, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's address and cache are read at import."""
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(tmp_path / "hub_cache"),
        "NO_PROXY": "127.0.0.1",
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", LOAD, name],
        env={**os.environ, **settings, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )


def refused(hub: Hub, tmp_path: Path, name: str, **environment: str) -> str:
    """The last line of the error."""
    failed = load(hub, tmp_path, name, **environment)
    assert failed.returncode == 1
    return next(line for line in failed.stderr.splitlines() if line.startswith("ValueError"))


def test_a_name_is_fetched_without_its_code_and_then_needs_no_connection(hub, tmp_path):
    expected = Tokenizer.load(hub.folder).hash
    assert "data.tokenizer=owner/name cannot be had" in refused(hub, tmp_path, "owner/name", HF_HUB_OFFLINE="1")
    done = load(hub, tmp_path, "owner/name")
    assert done.stdout.strip() == expected, done.stderr
    # the last two are not there, which is no fault
    files = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"}
    assert {path.rsplit("/", 1)[-1] for path in hub.asked} == files
    assert load(hub, tmp_path, "owner/name@v1").returncode == 0
    assert any("/resolve/v1/" in path for path in hub.asked)
    hub.asked.clear()
    assert load(hub, tmp_path, "owner/name", HF_HUB_OFFLINE="1").stdout.strip() == expected
    assert hub.asked == set()


def test_a_file_that_is_there_and_cannot_be_had_is_not_taken_for_one_that_is_not(hub, tmp_path):
    # it names the token that ends a document: without it another would be guessed
    hub.withheld = "tokenizer_config.json"
    said = refused(hub, tmp_path, "owner/name")
    assert "data.tokenizer=owner/name cannot be had from the Hugging Face hub: LocalEntryNotFoundError" in said
    (hub.folder / "tokenizer.json").unlink()
    assert "data.tokenizer=owner/name@v1 cannot be had" in refused(hub, tmp_path, "owner/name@v1")


def test_paths_are_not_taken_for_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder/here").mkdir(parents=True)
    names = dict.fromkeys(("owner/name", "owner/name@main", "owner/name-1.5_b"), True)
    no_names = ("folder/here", "folder/missing", "name", "/owner/name", "./name", "~/name", "owner/name/more")
    names |= dict.fromkeys((*no_names, "owner/tokenizer.json", "owner/spiece.model"), False)
    assert {name: is_hub_name(name) for name in names} == names
