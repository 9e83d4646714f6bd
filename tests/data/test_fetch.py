"""Downloads, from a server on this machine: no test reaches further."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import threading
from pathlib import Path

import pytest

from shrinkage.data import fetch, load_data, locate
from shrinkage.data.sources import SETS, Remote


class Server(http.server.ThreadingHTTPServer):
    """Serves files from memory and counts the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.asked.append(name)
        data = self.server.files.get(name)
        if data is None or self.headers["User-Agent"].startswith("python"):
            self.send_error(404 if data is None else 403)
            return
        self.send_response(200)
        self.end_headers()  # no length: the connection's end ends the file
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def published(server, build, monkeypatch, tmp_path):
    """MNIST's entry, pointed to the local server; and its content."""
    arrays = build.images()
    source = build.mnist_folder(tmp_path / "source", arrays)
    remotes = []
    for path in sorted(source.iterdir()):
        data = path.read_bytes()
        server.files[path.name] = data
        remotes.append(
            Remote(
                f"mnist/{path.name}", (server.url + path.name,), hashlib.sha256(data).hexdigest(), len(data)
            )
        )
    point(monkeypatch, *remotes)
    return arrays


def point(monkeypatch, *remotes):
    monkeypatch.setitem(SETS, "mnist", dataclasses.replace(SETS["mnist"], remotes=remotes))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_fetch_and_load(published, server, tmp_path):
    folder = tmp_path / "data"
    assert locate("mnist", folder) is None
    paths = fetch("mnist", folder)
    assert [path.parent for path in paths] == [folder / "mnist"] * 4
    assert files(folder) == sorted(server.files)
    data = load_data("mnist", data_dir=folder)
    assert (data.x_train[..., 0] == published["x_train"]).all()
    assert fetch("mnist", folder) == paths
    assert len(server.asked) == 4  # what is there isn't asked for again


def test_load_downloads_only_when_asked(published, server, refused, tmp_path, monkeypatch):
    monkeypatch.setenv("SHRINKAGE_DATA", str(tmp_path / "data"))
    refused(lambda: load_data("mnist"))
    assert not server.asked
    assert not (tmp_path / "data").exists()
    assert load_data("mnist", download=True).classes == 10
    assert load_data("mnist", download=True).classes == 10
    assert len(server.asked) == 4


def test_a_file_that_changed_on_disk_is_fetched_again(published, server, tmp_path):
    path = fetch("mnist", tmp_path / "data")[0]
    path.write_bytes(b"changed")
    fetch("mnist", tmp_path / "data")
    assert path.read_bytes() == server.files[path.name]


def test_another_checksum_is_one_error_and_leaves_nothing(published, server, refused, tmp_path):
    name = "train-images-idx3-ubyte.gz"
    server.files[name] = server.files[name][:-1] + b"?"
    message = refused(lambda: load_data("mnist", data_dir=tmp_path / "data", download=True))
    assert name in message
    assert "not the published one" in message
    assert name not in files(tmp_path / "data")
    assert all(left in server.files for left in files(tmp_path / "data"))  # whole ones, no temporary ones


def test_the_next_address_is_tried(published, server, monkeypatch, tmp_path):
    for remote in SETS["mnist"].remotes:
        server.files["broken/" + remote.path] = b"something else"
    remotes = [
        dataclasses.replace(r, urls=(server.url + "gone", server.url + "broken/" + r.path, *r.urls))
        for r in SETS["mnist"].remotes
    ]
    point(monkeypatch, *remotes)
    assert len(fetch("mnist", tmp_path / "data")) == 4
    assert len(server.asked) == 12


def test_a_missing_file_is_one_error(published, server, refused, tmp_path):
    server.files.clear()
    message = refused(lambda: fetch("mnist", tmp_path / "data"))
    assert "404" in message
    assert server.url in message
    assert files(tmp_path / "data") == []


def test_a_server_that_is_not_there_is_one_error(published, server, monkeypatch, refused, tmp_path):
    point(monkeypatch, Remote("mnist/a.gz", ("http://127.0.0.1:9/a.gz",), "0" * 64, 10))
    assert "127.0.0.1" in refused(lambda: fetch("mnist", tmp_path / "data"))
    assert files(tmp_path / "data") == []


def test_more_than_the_published_size_is_refused(published, server, monkeypatch, refused, tmp_path):
    server.files["big"] = bytes(2**20)
    point(monkeypatch, Remote("mnist/big", (server.url + "big",), None, 1000))
    assert "more than the published 1000 bytes" in refused(lambda: fetch("mnist", tmp_path / "data"))
    assert files(tmp_path / "data") == []


def test_a_file_without_a_published_checksum_is_taken(published, server, monkeypatch, tmp_path):
    server.files["any"] = b"content"
    point(monkeypatch, Remote("mnist/any", (server.url + "any",)))
    assert fetch("mnist", tmp_path / "data")[0].read_bytes() == b"content"


def test_only_http_is_spoken(published, monkeypatch, refused, tmp_path):
    for url in ("file:///etc/passwd", "ftp://127.0.0.1/a", "sftp://127.0.0.1/a"):
        point(monkeypatch, Remote("mnist/a", (url,)))
        assert "http" in refused(lambda: fetch("mnist", tmp_path / "data"))


def test_a_folder_that_cannot_be_written_is_one_error(published, refused, tmp_path):
    (tmp_path / "data").write_text("a file, not a folder")
    refused(lambda: fetch("mnist", tmp_path / "data"))


def test_what_needs_no_download(refused):
    assert fetch("digits") == []
    assert load_data("digits", download=True).classes == 10
    assert "Did you mean 'mnist'?" in refused(lambda: fetch("mnits"))
