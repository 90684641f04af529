"""The demo page, through Flask's test client and once through its real server."""

import io
import re
import threading
import urllib.request

import pytest
from PIL import Image
from werkzeug.datastructures import MultiDict

from datafree.errors import UserError
from datafree.predict.demo import app as demo
from datafree.predict.demo import server, session
from datafree.predict.demo.app import create_app
from datafree.predict.estimator import load_classifier

HOST = "127.0.0.1:8501"
MARKUP = '<script>alert("x")</script>猫'


def photo(colour, seed=0, kind="PNG"):
    stream = io.BytesIO()
    image = Image.new("RGB", (30, 20), colour)
    image.putpixel((seed, seed), (255, 255, 255))
    image.save(stream, kind)
    return stream.getvalue()


class Page:
    """A browser of the page: reads the secret from the forms, follows redirects."""

    def __init__(self, learners):
        self.client = create_app(learners, {HOST}).test_client()
        self.secret = re.search(r'name="secret" value="([^"]+)"', self.get().text)[1]

    def get(self, host=HOST):
        return self.client.get("/", base_url=f"http://{host}")

    def post(self, action, photos=(), host=HOST, secret=None, **values):
        data = MultiDict({**values, "secret": self.secret if secret is None else secret})
        for name, content in photos:
            data.add("photos", (io.BytesIO(content), name))
        return self.client.post(
            f"/{action}", data=data, base_url=f"http://{host}", content_type="multipart/form-data", follow_redirects=True
        )

    def with_classes(self):
        for name, colour in (("red", (220, 30, 20)), (MARKUP, (20, 30, 230))):
            assert self.post("add", [(f"{seed}.png", photo(colour, seed)) for seed in range(3)], name=name).status_code == 200
        return self


@pytest.fixture
def page(learner):
    return Page({"one": learner})


@pytest.fixture
def two(learner, variants):
    return Page({"one": learner, "two": variants(size=32, heads=False)})


def test_photos_are_shown_in_their_classes_and_a_class_can_be_removed(page):
    text = page.with_classes().get().text
    assert "red <small>3 photos</small>" in text
    assert text.count("data:image/jpeg;base64,") == 6
    page.post("add", [("a.png", photo((1, 2, 3)))], name="  red ")
    assert "red <small>4 photos</small>" in page.get().text
    page.post("remove", name="red")
    assert "red <small>" not in page.get().text


def test_photos_are_labelled_with_their_probabilities(page):
    page.with_classes()
    result = page.post("classify", [("new.png", photo((210, 40, 30), 4)), ("other.jpg", photo((30, 40, 220), 5, "JPEG"))])
    assert result.status_code == 200
    values = [float(value) for value in re.findall(r'<meter min="0" max="1" value="([\d.]+)">', result.text)]
    assert len(values) == 4
    assert sum(values[:2]) == pytest.approx(1, abs=1e-3)
    assert values[0] >= values[1]
    assert "new.png" in result.text


def test_learners_are_compared_side_by_side(two):
    two.with_classes()
    text = two.post("classify", [("new.png", photo((210, 40, 30)))]).text
    assert text.count("<meter") == 4
    assert '<span class="soft">one:</span>' in text
    assert '<span class="soft">two:</span>' in text


def test_the_classes_are_learned_once_per_learner_until_they_change(two, learner, monkeypatch):
    learned, fit = [], session.FewShotEstimator.fit

    def counted(self, images, labels):
        learned.append((self.learner is learner, sorted(set(labels))))
        return fit(self, images, labels)

    monkeypatch.setattr(session.FewShotEstimator, "fit", counted)

    def labelled():
        learned.clear()
        text = two.post("classify", [("new.png", photo((210, 40, 30)))]).text
        return learned.copy(), re.findall(r'<span class="name">(.*?)</span>', text)

    two.with_classes()
    both = sorted([MARKUP, "red"])
    assert labelled()[0] == [(True, both), (False, both)]
    assert labelled()[0] == []
    two.post("save", learner="one")
    assert learned == []
    two.post("add", [("a.png", photo((10, 200, 30)))], name="red")
    assert labelled()[0] == [(True, both), (False, both)]
    two.post("add", [("a.png", photo((10, 200, 30)))], name="green")
    two.post("remove", name=MARKUP)
    assert labelled() == ([(True, ["green", "red"]), (False, ["green", "red"])], ["red", "green", "red", "green"])


def test_names_are_escaped(page):
    text = page.with_classes().post("classify", [("<b>file</b>.png", photo((210, 40, 30)))]).text
    assert "<script" not in text
    assert "<b>file" not in text
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;猫" in text


def test_the_classifier_can_be_kept(two, tmp_path):
    result = two.with_classes().post("save", learner="two")
    (tmp_path / "c.safetensors").write_bytes(result.data)
    kept = load_classifier(tmp_path / "c.safetensors")
    assert kept.classes_.tolist() == sorted([MARKUP, "red"])
    assert kept.predict([photo((215, 35, 25))]).tolist() == ["red"]
    assert two.post("save", learner="three").status_code == 404


@pytest.mark.parametrize(
    ("action", "photos", "values", "message"),
    [
        ("add", [("a.png", b"nothing")], {"name": "x"}, "a.png: cannot be read as an image"),
        ("add", [], {"name": "x"}, "x: expected at least one photo, got none"),
        ("add", [("a.png", photo("red"))], {"name": "  "}, "expected a class name of 1 to 80 characters, got 0"),
        ("add", [("a.png", photo("red"))], {"name": "none of these"}, "a class is named `none of these`"),
        ("add", [("a.png", photo("red"))], {"name": "x" * 81}, "expected a class name of 1 to 80 characters, got 81"),
        ("add", [(f"{n}.png", photo("red")) for n in range(4)], {"name": "red"}, "red: 7 photos; a class takes at most 6"),
        ("add", [("a.png", photo("red"))], {"name": "third"}, "third: this page takes at most 2 classes"),
        ("classify", [], {}, "expected at least one photo to label, got none"),
        ("classify", [("a.gif", b"GIF89a")], {}, "a.gif: cannot be read as an image"),
    ],
)
def test_a_mistake_is_explained_and_changes_nothing(page, monkeypatch, action, photos, values, message):
    monkeypatch.setattr(session, "MOST_CLASSES", 2)
    monkeypatch.setattr(session, "MOST_IMAGES", 6)
    before = page.with_classes().get().text
    result = page.post(action, photos, **values)
    assert result.status_code == 400
    assert f'role="alert">{message}' in result.text
    assert page.get().text == before


def test_labels_need_two_classes(page):
    result = page.post("classify", [("a.png", photo("red"))])
    assert result.status_code == 400
    assert "expected at least 2 classes with photos, got 0; add another class first" in result.text
    assert page.post("save", learner="one").status_code == 400


def test_an_upload_that_is_too_large_is_refused(learner, monkeypatch):
    monkeypatch.setattr(demo, "MOST_BYTES", 2**18)
    page = Page({"one": learner})
    result = page.post("add", [("a.png", b"x" * 300_000)], name="x")
    assert result.status_code == 413
    assert "expected at most 0.25 MB and 1000 photos in one upload, got more" in result.text


def test_requests_of_other_sites_are_refused(page):
    assert page.get(host="evil.example:8501").status_code == 403
    for secret in ("", "guess", "ü"):
        assert page.post("add", [("a.png", photo("red"))], name="x", secret=secret).status_code == 403
    assert page.client.post("/add", base_url=f"http://{HOST}").status_code == 403
    assert "red <small>" not in page.get().text


def test_the_page_uses_no_script_and_nothing_from_elsewhere(page):
    result = page.with_classes().get()
    assert "default-src 'none'" in result.headers["Content-Security-Policy"]
    assert "script" not in result.headers["Content-Security-Policy"]
    assert not re.findall(r"https?://|<script|<link|@import|url\(", result.text)
    assert result.headers["Cache-Control"] == "no-store"


def test_the_server_listens_on_the_loopback_interface_only(learner):
    running = server.make({"one": learner}, 0)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        assert running.server_address[0] == "127.0.0.1"
        with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/", timeout=30) as response:
            assert "Try a learner" in response.read().decode()
        with pytest.raises(UserError, match=f"--port: port {running.port} is in use or may not be used"):
            server.make({"one": learner}, running.port)
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


def test_the_address_of_a_form_leads_back_to_the_page(page):
    assert "Try a learner" in page.client.get("/add", base_url=f"http://{HOST}", follow_redirects=True).text


def test_the_server_ends_on_an_interrupt(learner, monkeypatch, capsys):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("werkzeug.serving.ThreadedWSGIServer.serve_forever", interrupted)
    server.serve({"one": learner}, 0)
    assert re.fullmatch(r"open http://127.0.0.1:\d+ \(Ctrl-C ends it\)\nended\n", capsys.readouterr().err)
