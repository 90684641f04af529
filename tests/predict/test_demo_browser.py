"""The demo page in a browser: real forms, files and downloads, in a light and a dark colour scheme, in a wide and a narrow window."""

from __future__ import annotations

import io
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from PIL import Image

from datafree.predict.demo import server
from datafree.predict.estimator import load_classifier

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
if PROGRAM is None:
    pytest.skip(f"needs a browser: found none of {', '.join(NAMES)} on the PATH", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright: pip install 'datafree[dev]'")

# The sandbox needs rights that containers do not give; the other options keep the browser from using the network by itself.
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
MARKUP = '<img src="http://other.invalid/a.png" onerror="alert(1)">'
RED, BLUE = (220, 30, 20), (20, 30, 230)
WIDE, PHONE = {"width": 1200, "height": 800}, {"width": 375, "height": 667}


def photo(colour: tuple[int, int, int], seed: int, name: str = "") -> dict:
    """A file to upload."""
    image, stream = Image.new("RGB", (30, 20), colour), io.BytesIO()
    image.putpixel((seed, seed), (255, 255, 255))
    image.save(stream, "PNG")
    return {"name": name or f"{seed}.png", "mimeType": "image/png", "buffer": stream.getvalue()}


class Visit:
    """A window on the page, with the addresses that it requested and what its console says."""

    def __init__(self, browser, address: str, colours: str, window: dict) -> None:
        self.requested: list[str] = []
        self.problems: list[str] = []
        self.address = address
        self.page = browser.new_page(color_scheme=colours, viewport=window)
        self.page.set_default_timeout(20_000)
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.problems.append(dialog.message), dialog.dismiss()))
        self.page.goto(address)

    def elsewhere(self) -> list[str]:
        """The requested addresses of other places than the server and the page itself."""
        return [url for url in self.requested if not url.startswith((self.address, "data:"))]

    def add(self, name: str, *photos: dict) -> None:
        """Make a class."""
        card = self.page.locator("article.new")
        card.get_by_label("Name").fill(name)
        card.get_by_label("Photos").set_input_files(list(photos))
        card.locator("button").click()

    def label(self, *photos: dict) -> None:
        self.page.locator("form[action=classify]").get_by_label("Photos").set_input_files(list(photos))
        self.page.get_by_text("Label them").click()

    def card(self, name: str):
        """The card of a class."""
        return self.page.locator("article.card", has=self.page.get_by_role("heading", name=name))

    def overflow(self) -> int:
        """How many pixels the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - innerWidth")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=PROGRAM, args=OPTIONS)
        yield started
        started.close()


@pytest.fixture
def visit(browser, learner, variants):
    """A function that opens a page of two learners; in the end, nothing came from elsewhere, and the console is empty."""
    running = server.make({"one": learner, "two": variants(size=32, heads=False)}, 0)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()

    @contextmanager
    def opened(colours: str = "light", window: dict = WIDE) -> Iterator[Visit]:
        visited = Visit(browser, f"http://127.0.0.1:{running.port}/", colours, window)
        try:
            yield visited
            assert visited.problems == []
            assert visited.elsewhere() == []
        finally:
            visited.page.close()

    try:
        yield opened
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


def test_photos_in_classes_give_predictions_of_both_learners_side_by_side(visit):
    with visit() as visited:
        page = visited.page
        assert page.get_by_text("Label them").count() == 0
        visited.add("red", *(photo(RED, seed) for seed in range(3)))
        visited.add("blue", *(photo(BLUE, seed) for seed in range(14)))
        assert visited.card("blue").get_by_role("heading").inner_text() == "blue 14 photos"
        assert visited.card("blue").get_by_text("and 2 more").is_visible()
        shown = page.locator(".thumbnails img")
        assert shown.evaluate_all("images => images.map(image => image.naturalWidth)") == [96] * (3 + 12)

        visited.label(photo(RED, 5, "new.png"), photo(BLUE, 6, "other.png"))
        photos = page.locator("article.labelled")
        assert photos.count() == 2
        for of_photo, file, nearest in zip(photos.all(), ("new.png", "other.png"), ("red", "blue"), strict=True):
            assert of_photo.get_by_text(file).is_visible()
            predictions = of_photo.locator(".prediction").all()
            assert [prediction.locator("p .soft").inner_text() for prediction in predictions] == ["one:", "two:"]
            first, second = (prediction.bounding_box() for prediction in predictions)
            assert first["y"] == second["y"] and first["x"] + first["width"] < second["x"]
            for prediction in predictions:
                assert prediction.locator(".name").first.inner_text() == nearest
                values = prediction.locator("meter").evaluate_all("bars => bars.map(bar => bar.value)")
                assert sum(values) == pytest.approx(1, abs=1e-3) and values[0] > 0.5
                assert prediction.locator(".value").all_inner_texts() == [f"{100 * value:.0f} %" for value in values]


def test_a_class_grows_and_is_removed(visit):
    with visit() as visited:
        visited.add("red", photo(RED, 0))
        card = visited.card("red")
        assert card.get_by_role("heading").inner_text() == "red 1 photo"
        card.get_by_label("More photos").set_input_files([photo(RED, 1), photo(RED, 2)])
        card.get_by_text("Add").click()
        assert card.get_by_role("heading").inner_text() == "red 3 photos"
        card.get_by_text("Remove the class").click()
        assert visited.page.get_by_role("heading", level=3).all_inner_texts() == ["New class"]


def test_the_classifier_is_downloaded(visit, tmp_path):
    with visit() as visited:
        visited.add("red", photo(RED, 0))
        visited.add("blue", photo(BLUE, 0))
        with visited.page.expect_download() as download:
            visited.page.get_by_text("Save that of two").click()
        assert download.value.suggested_filename == "classifier.safetensors"
        download.value.save_as(tmp_path / "classifier.safetensors")
    kept = load_classifier(tmp_path / "classifier.safetensors")
    assert kept.classes_.tolist() == ["blue", "red"]


def test_names_with_html_are_shown_as_text(visit):
    with visit() as visited:
        visited.add(MARKUP, photo(RED, 0))
        visited.add("blue", photo(BLUE, 0))
        assert visited.card(MARKUP).get_by_role("heading").inner_text() == f"{MARKUP} 1 photo"
        visited.label(photo(RED, 5, "<b>file.png"))
        assert visited.page.locator(".bar .name").first.inner_text() == MARKUP
        assert visited.page.locator("article.labelled > p").inner_text() == "<b>file.png"
        assert visited.page.locator("img:not([src^='data:']), script").count() == 0


def test_a_mistake_is_shown_and_the_page_stays_usable(visit):
    with visit() as visited:
        visited.add("red", {"name": "a.png", "mimeType": "image/png", "buffer": b"nothing"})
        assert visited.page.get_by_role("alert").inner_text().startswith("a.png: cannot be read as an image")
        assert [re.sub(r"\(.*", "", line) for line in visited.problems] == [
            "Failed to load resource: the server responded with a status of 400 "
        ]  # Chromium's own report of the status
        visited.problems.clear()
        visited.page.goto(visited.page.url)  # the address of the form, opened anew
        visited.add("red", photo(RED, 0))
        assert visited.page.get_by_role("alert").count() == 0
        assert visited.card("red").is_visible()


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_a_narrow_window_is_wide_enough_for_long_names_and_many_photos(visit, colours):
    with visit(colours, PHONE) as visited:
        assert visited.overflow() <= 0
        visited.add("x" * 80, *(photo(RED, seed) for seed in range(15)))
        visited.add("several words " * 5, photo(BLUE, 0))
        visited.label(photo(RED, 5, "y" * 90 + ".png"))
        assert visited.page.locator("meter").count() == 4
        assert visited.overflow() <= 0
        first, second = (part.bounding_box() for part in visited.page.locator(".prediction").all())
        assert second["y"] >= first["y"] + first["height"]
        paper = visited.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper)[:3])) > 3 * 128) is (colours == "light")


def test_requests_console_messages_and_overflow_are_noticed(visit):
    """The checks above can fail: a page that does what the demo page must not do."""
    with visit(window=PHONE) as visited:
        assert visited.overflow() <= 0
        visited.page.goto("about:blank")  # without the policy of the demo page, which prevents scripts
        with visited.page.expect_event("dialog"):
            visited.page.set_content(f'<p style="width: 400px">wide</p>{MARKUP}')
        assert visited.overflow() > 0
        assert visited.elsewhere() == ["http://other.invalid/a.png"]
        assert "1" in visited.problems  # the dialog
        visited.requested.clear()
        visited.problems.clear()
        visited.page.goto(visited.address)
        visited.page.evaluate("console.error('said')")
        assert visited.problems == ["said"]
        visited.problems.clear()
