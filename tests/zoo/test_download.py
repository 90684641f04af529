import hashlib
import threading

import pytest

from datafree.errors import UserError
from datafree.zoo.download import Limits, download

IMPATIENT = Limits(stall=0.4, total=20, attempts=3, backoff=0)


@pytest.fixture
def get(web, tmp_path):
    """Download a path of the server: ``get(path)``, with the target ``get.target`` and the unfinished file ``get.part``."""
    digest = hashlib.sha256(web.content).hexdigest()

    def call(path, sha256=digest, max_bytes=10**6, limits=IMPATIENT):
        return download(web.url(path), call.target, sha256, max_bytes, limits)

    call.target = tmp_path / "cache" / "w.pth"
    call.part = tmp_path / "cache" / "w.pth.part"
    return call


def test_a_download_leaves_the_complete_file_and_no_other(get, web):
    assert get("/good.pth") == get.target
    assert get.target.read_bytes() == web.content
    assert list(get.target.parent.iterdir()) == [get.target]
    assert get.target.stat().st_mode & 0o777 == 0o644
    assert web.requests == [("/good.pth", None)]


def test_the_beginning_of_the_hash_is_sufficient(get, web):
    get("/good", sha256=hashlib.sha256(web.content).hexdigest()[:8])
    assert get.target.read_bytes() == web.content


@pytest.mark.parametrize(
    ("path", "ranges"),
    [
        ("/drops", [None, "bytes=5120-"]),  # resumed at the missing byte
        ("/forgets", [None, "bytes=5120-"]),  # the server starts over, and so does the client
        ("/misplaces", [None, "bytes=100-", None]),
        ("/unsatisfiable", [None, "bytes=5120-", None]),
        ("/busy", [None, None, None]),
        ("/promises_nothing", [None]),
        ("/promises_nonsense", [None]),
    ],
)
def test_a_temporary_failure_is_retried(get, web, path, ranges):
    get(path)
    assert get.target.read_bytes() == web.content
    assert [byte_range for _, byte_range in web.requests] == ranges
    assert list(get.target.parent.iterdir()) == [get.target]


def test_a_redirect_is_followed(get, web):
    get("/moved")
    assert [path for path, _ in web.requests] == ["/moved", "/good.pth"]
    assert get.target.read_bytes() == web.content


@pytest.mark.parametrize(
    ("path", "message", "requests"),
    [
        ("/absent", "download failed .404 Not Found.; check the address and the network", 1),
        ("/broken", "download failed .500 Internal Server Error.; check the address", 3),
        ("/to_file", "redirects to 'file:///etc/passwd'; only http:// and https:// are followed", 1),
        ("/to_ftp", "redirects to 'ftp://127.0.0.1/x'; only http", 1),
        ("/to_data", "redirects to 'data:,weights'; only http", 1),
        ("/circle", "redirects more than 10 times", 10),
        ("/promises_less", "not the file of the manifest, its SHA-256 is [0-9a-f]{64}, expected", 1),
        ("/compressed", "not the file of the manifest", 1),
        ("/promises_too_much", "1000000000000000 bytes; a checkpoint may have at most 1000000", 1),
        ("/endless", "more than 1000000 bytes, the limit for a checkpoint", 1),
        ("/silent", "download failed .*(no response within 0.4 s|timed out)", 3),
        ("/drips_headers", "download failed .no response within 0.4 s", 3),
        ("/garbage", "download failed", 3),
    ],
)
def test_a_permanent_failure_is_a_one_line_error_and_leaves_no_file(get, web, path, message, requests):
    with pytest.raises(UserError, match=f"^{web.url(path)}: {message}") as caught:
        get(path)
    assert "\n" not in str(caught.value)
    assert list(get.target.parent.iterdir()) == []
    assert len(web.requests) == requests


@pytest.mark.parametrize(("path", "kept"), [("/always_drops", 100), ("/stalls", 1000)])
def test_received_bytes_are_kept_under_another_name_and_resumed_later(get, web, path, kept):
    with pytest.raises(UserError, match=f"download failed .*; {kept} bytes are kept, run again to continue"):
        get(path)
    assert list(get.target.parent.iterdir()) == [get.part]
    assert get.part.read_bytes() == web.content[:kept]
    web.requests.clear()
    get("/good")
    assert web.requests == [("/good", f"bytes={kept}-")]
    assert get.target.read_bytes() == web.content
    assert list(get.target.parent.iterdir()) == [get.target]


def test_a_server_that_sends_single_bytes_exceeds_the_time_limit(get, web):
    with pytest.raises(UserError, match="too slow, [0-9]+ bytes within the time limit; they are kept"):
        get("/drips", limits=Limits(stall=30, total=0.5, attempts=3, backoff=0))
    assert web.content.startswith(get.part.read_bytes())
    assert not get.target.exists()


def test_an_unfinished_file_of_other_content_is_discarded_and_fetched_again(get, web):
    get.target.parent.mkdir()
    get.part.write_bytes(b"something else")
    get("/good")
    assert web.requests == [("/good", "bytes=14-"), ("/good", None)]
    assert get.target.read_bytes() == web.content


def test_a_complete_download_that_was_not_renamed_needs_no_request(get, web):
    get.target.parent.mkdir()
    get.part.write_bytes(web.content)
    get("/good")
    assert web.requests == []
    assert list(get.target.parent.iterdir()) == [get.target]


def test_a_wrong_hash_leaves_no_file(get):
    with pytest.raises(UserError, match="not the file of the manifest, .* expected 0{64}; correct the address or the hash"):
        get("/good", sha256="0" * 64)
    assert list(get.target.parent.iterdir()) == []


def test_a_refused_connection_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UserError, match="^http://127.0.0.1:9/x: download failed .*check the address and the network"):
        download("http://127.0.0.1:9/x", tmp_path / "x", "0" * 64, 100, IMPATIENT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://a b/x", "http://\x00/x", "http://" + "a" * 70 + "..b/x"])
def test_a_malformed_address_is_a_one_line_error(tmp_path, url):
    with pytest.raises(UserError, match="download failed") as caught:
        download(url, tmp_path / "x", "0" * 64, 100, Limits(1, 2, 1, 0))
    assert "\n" not in str(caught.value)


def test_concurrent_downloads_of_one_file_make_one_request(get, web):
    threads = [threading.Thread(target=get, args=("/slow",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(web.requests) == 1
    assert get.target.read_bytes() == web.content
    assert list(get.target.parent.iterdir()) == [get.target]
