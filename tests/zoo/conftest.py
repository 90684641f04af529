"""A web server whose addresses fail in different ways, and a fake of the package timm."""

from __future__ import annotations

import http.server
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from torch import nn

CONTENT = bytes(range(256)) * 40


class Handler(http.server.BaseHTTPRequestHandler):
    """``/name`` calls the method ``name``; ``self.start`` is the first byte of the requested range."""

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        self.start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        getattr(self, self.path.strip("/").partition("?")[0].partition(".")[0], self.absent)()

    def respond(self, status, body=b"", length=None, **headers):
        self.send_response(status)
        if length is not False:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def span(self, first=None):
        first = self.start if first is None else first
        return f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}"

    def absent(self):
        self.respond(404, b"no such file")

    def good(self):
        if self.start:
            self.respond(206, CONTENT[self.start :], Content_Range=self.span())
        else:
            self.respond(200, CONTENT)

    def drops(self):
        """Closes the connection half way, and resumes on request."""
        if self.start:
            self.good()
        else:
            self.respond(200, CONTENT[: len(CONTENT) // 2], length=len(CONTENT))

    def forgets(self):
        """Closes the first connection half way, and always starts over."""
        first = sum(path == self.path for path, _ in self.server.requests) == 1
        self.respond(200, CONTENT[: len(CONTENT) // 2] if first else CONTENT, length=len(CONTENT))

    def misplaces(self):
        """Claims to resume, but from another byte; starts over correctly."""
        if self.start:
            self.respond(206, CONTENT[7:], Content_Range=self.span(7))
        else:
            first = sum(path == self.path for path, _ in self.server.requests) == 1
            self.respond(200, CONTENT[:100] if first else CONTENT, length=len(CONTENT))

    def unsatisfiable(self):
        if self.start:
            self.respond(416)
        else:
            self.forgets()

    def always_drops(self):
        self.respond(200, CONTENT[:100], length=len(CONTENT))

    def promises_less(self):
        self.respond(200, CONTENT, length=len(CONTENT) - 1)

    def promises_nonsense(self):
        self.respond(200, CONTENT, length="a lot")

    def promises_nothing(self):
        self.respond(200, CONTENT, length=False)

    def promises_too_much(self):
        self.respond(200, CONTENT, length=10**15)

    def endless(self):
        self.respond(200, length=False)
        while not self.server.stopping.is_set():
            self.wfile.write(bytes(2**16))

    def compressed(self):
        import gzip

        self.respond(200, gzip.compress(CONTENT), Content_Encoding="gzip")

    def busy(self):
        """Is unavailable twice."""
        if sum(path == self.path for path, _ in self.server.requests) < 3:
            self.respond(503 if self.server.requests.count((self.path, None)) == 1 else 429)
        else:
            self.good()

    def broken(self):
        self.respond(500)

    def moved(self):
        self.respond(302, Location="/good.pth")

    def to_file(self):
        self.respond(302, Location="file:///etc/passwd")

    def to_ftp(self):
        self.respond(301, Location="ftp://127.0.0.1/x")

    def to_data(self):
        self.respond(307, Location="data:,weights")

    def circle(self):
        self.respond(302, Location="/circle")

    def silent(self):
        self.server.stopping.wait(20)

    def stalls(self):
        self.respond(200, CONTENT[:1000], length=len(CONTENT))
        self.server.stopping.wait(20)

    def drips(self):
        self.respond(200, length=len(CONTENT))
        self.drip(CONTENT)

    def drips_headers(self):
        self.drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000)

    def drip(self, content):
        for value in content:
            if self.server.stopping.wait(0.05):
                return
            self.wfile.write(bytes([value]))
            self.wfile.flush()

    def garbage(self):
        self.wfile.write(b"\x00\x01 not HTTP\r\n\r\n")

    def slow(self):
        time.sleep(0.2)
        self.good()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        pass  # the client closed the connection

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.stopping = threading.Event()

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"


@pytest.fixture
def web(monkeypatch):
    """A running server: ``url(path)``, and ``requests``, a list of (path, Range header). ``content`` is what its good addresses send."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.delenv("DATAFREE_OFFLINE", raising=False)
    with Server() as server:
        server.content = CONTENT
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.stopping.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def timm(monkeypatch):
    """A fake of the package timm, which is an optional extra: one small model."""

    def create_model(name, pretrained, in_chans):
        assert not pretrained
        if name not in ("tiny", "headless"):
            raise RuntimeError(f"Unknown\nmodel ({name})")
        layers = [nn.Conv2d(in_chans, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        model = nn.Sequential(*layers, nn.Linear(4, 1000))
        model.pretrained_cfg = {"classifier": ("5", "4") if name == "headless" else "5"}
        return model

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
