"""The server of the demo page, which only this computer reaches."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping

from werkzeug.serving import BaseWSGIServer, make_server

from datafree.errors import UserError
from datafree.predict.demo.app import create_app
from datafree.predict.network import TrainedLearner

LOOPBACK = "127.0.0.1"


def make(learners: Mapping[str, TrainedLearner], port: int) -> BaseWSGIServer:
    """A server of the page for some learners by name, on a port of the loopback interface; 0 is a free one.

    Raises:
        UserError: the port is in use or may not be used.
    """
    hosts: set[str] = set()
    app = create_app(learners, hosts)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK, port))
        except OSError:
            raise UserError(f"--port: port {port} is in use or may not be used; choose another one, or 0 for a free one") from None
        listening.listen()
        server = make_server(LOOPBACK, listening.getsockname()[1], app, threaded=True, fd=listening.fileno())
    for name in (LOOPBACK, "localhost"):
        hosts |= {f"{name}:{server.port}"} | ({name} if server.port == 80 else set())  # a browser leaves the default port out
    return server


def serve(learners: Mapping[str, TrainedLearner], port: int) -> None:
    """Serve the page until Ctrl-C."""
    server = make(learners, port)
    print(f"open http://{LOOPBACK}:{server.port} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("ended", file=sys.stderr)
    finally:
        server.server_close()
