"""Download of one file over http(s): resumable, bounded in size and time, verified by SHA-256.

The file appears under its name only when its hash is correct. Until then the received bytes are in a file beside it that ends in ``.part``.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from datafree import artifacts
from datafree.errors import UserError
from datafree.progress import progress

T = TypeVar("T")
CHUNK = 2**16
MEBIBYTE = 2**20
REDIRECTS = 10
RETRIED_STATUSES = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Limits:
    """Time limits and number of attempts of a download."""

    stall: float = 30  # seconds until the response must begin, and between two chunks of it
    total: float = 7200  # seconds for the whole file, all attempts together
    attempts: int = 5
    backoff: float = 1  # seconds before the second attempt; doubles with each further one, up to a minute


class Interrupted(Exception):
    """A failed attempt that is worth repeating."""


def download(url: str, target: Path, sha256: str, max_bytes: int, limits: Limits | None = None) -> Path:
    """Fetch ``url`` to ``target``. ``sha256`` is the expected hash or its beginning; ``max_bytes`` bounds the file.

    An unfinished download of an earlier call is resumed. If several processes request the same file, one fetches it and the others wait.

    Raises:
        UserError: not reachable, too large, too slow, another file than expected, or a redirect to anything but http(s).
    """
    limits = limits or Limits()
    deadline = time.monotonic() + limits.total
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(part) as file:
        try:
            if not (target.is_file() and artifacts.sha256(target).startswith(sha256)):
                _fetch(url, file, part, sha256, max_bytes, limits, deadline)
                os.fsync(file.fileno())
                part.chmod(0o644)
                part.replace(target)
        finally:
            if part.is_file() and (part.stat().st_size == 0 or target.is_file()):
                part.unlink()
    return target


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """The unfinished file, opened for appending, under an exclusive lock."""
    while True:
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # The previous holder of the lock may have finished and renamed the file that was opened here.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(part.stat(), os.fstat(file.fileno())):
                    yield file
                    return


def _fetch(url: str, file: BinaryIO, part: Path, sha256: str, max_bytes: int, limits: Limits, deadline: float) -> None:
    reason = ""
    for attempt in range(limits.attempts):
        if attempt:
            time.sleep(min(limits.backoff * 2 ** (attempt - 1), 60, max(0, deadline - time.monotonic())))
        resumed = part.stat().st_size
        if resumed and artifacts.sha256(part).startswith(sha256):
            return
        try:
            _attempt(url, file, resumed, max_bytes, limits, deadline)
        except Interrupted as interruption:
            reason = str(interruption)
            continue
        digest = artifacts.sha256(part)
        if digest.startswith(sha256):
            return
        file.truncate(0)
        reason = f"not the file of the manifest, its SHA-256 is {digest}, expected {sha256}"
        if not resumed:  # all bytes are of this attempt: another one would give the same
            raise UserError(f"{url}: {reason}; correct the address or the hash")
    kept = part.stat().st_size
    hint = f"{kept} bytes are kept, run again to continue" if kept else "check the address and the network"
    raise UserError(f"{url}: download failed ({reason}); {hint}")


def _attempt(url: str, file: BinaryIO, start: int, max_bytes: int, limits: Limits, deadline: float) -> None:
    """Append the missing bytes to ``file``; start over if the server does not resume."""
    with requests.Session() as session:
        response = _within(limits.stall, lambda: _open(session, url, start, limits.stall))
        with response:
            if response.status_code in RETRIED_STATUSES:
                raise Interrupted(f"{response.status_code} {response.reason}")
            if response.status_code == 416 or (response.status_code == 206 and not _continues(response, start)):
                file.truncate(0)
                raise Interrupted("the server does not resume at the requested byte")
            if response.status_code not in (200, 206):
                raise UserError(f"{url}: download failed ({response.status_code} {response.reason}); check the address and the network")
            if response.status_code == 200:
                file.truncate(0)
                start = 0
            length = response.headers.get("Content-Length", "")
            file_size = start + int(length) if length.isascii() and length.isdigit() else None
            if file_size is not None and file_size > max_bytes:
                raise UserError(f"{url}: {file_size} bytes; a checkpoint may have at most {max_bytes}")
            mebibytes = _receive(response, url, file, start, file_size, max_bytes, deadline)
            if file_size is None:
                for _ in mebibytes:
                    pass
            else:
                name = urlsplit(url).path.rpartition("/")[2] or url
                for _ in progress(mebibytes, math.ceil((file_size - start) / MEBIBYTE), f"download {name} (MiB)"):
                    pass


def _continues(response: requests.Response, start: int) -> bool:
    unit, _, span = response.headers.get("Content-Range", "").partition(" ")
    return unit == "bytes" and span.partition("-")[0] == str(start)


def _open(session: requests.Session, url: str, start: int, stall: float) -> requests.Response:
    """The response to a request for the bytes from ``start`` on, after redirects; its body is not read yet."""
    # Without compression, lengths and positions refer to the file itself.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    current = url
    for _ in range(REDIRECTS):
        try:
            response = session.get(current, headers=headers, stream=True, timeout=stall, allow_redirects=False)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise Interrupted(_line(error)) from None
        except (requests.RequestException, ValueError) as error:  # urllib3 rejects some malformed addresses that requests accepts
            raise UserError(f"{url}: download failed ({_line(error)}); check the address") from None
        target = session.get_redirect_target(response)
        if target is None:
            return response
        response.close()
        current = urljoin(current, target)
        if urlsplit(current).scheme not in ("http", "https"):
            raise UserError(f"{url}: redirects to {current[:80]!r}; only http:// and https:// are followed")
    raise UserError(f"{url}: redirects more than {REDIRECTS} times; check the address")


def _receive(
    response: requests.Response, url: str, file: BinaryIO, start: int, file_size: int | None, max_bytes: int, deadline: float
) -> Iterator[None]:
    """Write the body to ``file`` as it arrives; yields once per MiB."""
    received, reported = start, start
    while True:
        try:
            chunk = response.raw.read1(CHUNK, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            file.flush()
            raise Interrupted(_line(error)) from None
        if not chunk:
            break
        received += len(chunk)
        if received > max_bytes:
            file.truncate(0)
            raise UserError(f"{url}: more than {max_bytes} bytes, the limit for a checkpoint; the rest is not fetched")
        file.write(chunk)
        while received - reported >= MEBIBYTE:
            reported += MEBIBYTE
            yield
        if time.monotonic() > deadline:
            file.flush()
            raise UserError(f"{url}: too slow, {received} bytes within the time limit; they are kept, run again to continue")
    file.flush()
    if file_size is not None and received < file_size:
        raise Interrupted(f"connection closed after {received} of {file_size} bytes")
    if received > reported:
        yield


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The result of ``call``, or ``Interrupted`` after ``seconds``: a socket's own timeout restarts with every byte received."""
    outcomes: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            outcomes.put((call(), None))
        except BaseException as error:
            outcomes.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = outcomes.get(timeout=seconds)
    except queue.Empty:
        raise Interrupted(f"no response within {seconds:g} s") from None
    if error is not None:
        raise error
    return result  # pyright: ignore[reportReturnType]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
