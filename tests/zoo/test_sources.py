import gc
import hashlib
import http.server
import threading
import warnings
from pathlib import Path

import pytest

from datafree.errors import UserError
from datafree.zoo import loading
from datafree.zoo.manifest import Entry
from datafree.zoo.sources import fetch

CONTENT = b"weights" * 1000
HASH = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def server():
    """A web server with one good file, one that breaks off, and nothing else; ``requests`` counts."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.requests += 1
            if self.path.startswith("/good"):
                self.answer(200, CONTENT, len(CONTENT))
            elif self.path == "/cut.pth":
                self.answer(200, CONTENT[:500], len(CONTENT))
            else:
                self.answer(404, b"no such file", 12)

        def answer(self, status, content, length):
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        serving.requests = 0
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


@pytest.fixture
def entry(server, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")

    def make(path, sha256=HASH):
        return Entry(name="x", url=f"http://127.0.0.1:{server.server_port}{path}", sha256=sha256, classes=["a", "b"])

    yield make
    with warnings.catch_warnings():  # after a failure pooch leaves the closing of its connection to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_a_download_is_checked_and_kept(server, entry, tmp_path):
    server.requests = 0
    path = fetch(entry("/good.pth?version=1"), tmp_path, tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [path.name]
    assert path.name.startswith(HASH[:16])
    assert fetch(entry("/good.pth?version=1"), tmp_path, tmp_path / "cache") == path
    assert server.requests == 1


def test_a_kept_file_that_was_damaged_is_fetched_again(entry, tmp_path):
    path = fetch(entry("/good.pth"), tmp_path, tmp_path / "cache")
    path.write_bytes(CONTENT[:-1])
    assert fetch(entry("/good.pth"), tmp_path, tmp_path / "cache").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "sha256", "message"),
    [
        ("/good.pth", "0" * 64, "not the file of the manifest"),
        ("/absent.pth", HASH, "download failed .*404"),
        ("/cut.pth", HASH, "download failed|not the file of the manifest"),
    ],
)
def test_a_failed_download_is_one_line_and_leaves_no_file(entry, tmp_path, path, sha256, message):
    with pytest.raises(UserError, match=f"^http://127.0.0.1.*{path}: ({message})") as caught:
        fetch(entry(path, sha256), tmp_path, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").glob("*")) == []


def test_a_server_that_does_not_answer_is_one_line(tmp_path, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    with pytest.raises(UserError, match="^http://127.0.0.1:9/x.pth: download failed .*check the address and the network"):
        fetch(Entry(name="x", url="http://127.0.0.1:9/x.pth", sha256=HASH), tmp_path, tmp_path / "cache")


def test_a_file_is_found_beside_the_manifest_and_checked(tmp_path):
    (tmp_path / "zoos").mkdir()
    (tmp_path / "zoos" / "w.pth").write_bytes(CONTENT)
    entry = Entry(name="x", file="w.pth", classes=["a", "b"])
    assert fetch(entry, tmp_path / "zoos", Path("unused")) == tmp_path / "zoos" / "w.pth"
    entry.sha256 = "0" * 64
    with pytest.raises(UserError, match="w.pth: SHA-256 is"):
        fetch(entry, tmp_path / "zoos", Path("unused"))


def test_a_download_beyond_the_limit_is_refused(entry, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "MAX_BYTES", 100)
    with pytest.raises(UserError, match="7000 bytes; a checkpoint may have at most 100"):
        fetch(entry("/good.pth"), tmp_path, tmp_path / "cache")
