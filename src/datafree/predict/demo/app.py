"""The demo page as a Flask application. Every page is rendered on the server, without scripts and without external resources."""

from __future__ import annotations

import io
import secrets
import tempfile
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path

from flask import Flask, Response, abort, redirect, render_template, request, send_file, url_for
from markupsafe import Markup
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wrappers import Response as AnyResponse

from datafree.errors import UserError
from datafree.predict.demo.session import LONGEST_NAME, MOST_CLASSES, MOST_IMAGES, LabelledPhoto, Session
from datafree.predict.network import TrainedLearner

MOST_BYTES, MOST_PHOTOS = 256 * 2**20, 1000  # of one upload
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"


def create_app(learners: Mapping[str, TrainedLearner], hosts: Collection[str]) -> Flask:
    """The page for some learners by name. Requests under other names than ``hosts`` are refused, so that no other site reaches the page
    through a name that it controls; forms carry a secret of this process, so that no other site can send one."""
    app = Flask(__name__, template_folder=".", static_folder=None)
    app.config |= {"MAX_CONTENT_LENGTH": MOST_BYTES, "MAX_FORM_PARTS": MOST_PHOTOS + 10}
    session, secret = Session(learners), secrets.token_urlsafe(16)
    style = Markup(resources.files("datafree.predict.demo").joinpath("style.css").read_text(encoding="utf-8"))

    def page(labelled: list[LabelledPhoto] | None = None, error: str = "") -> tuple[str, int]:
        with session.lock:
            classes = dict(session.classes)
        limits = {"classes": MOST_CLASSES, "images": MOST_IMAGES, "name": LONGEST_NAME, "megabytes": f"{MOST_BYTES / 2**20:g}"}
        values = {"style": style, "secret": secret, "learners": learners, "classes": classes, "limits": limits}
        return render_template("page.html", **values, labelled=labelled, error=error), 400 if error else 200

    @app.before_request
    def refuse_others() -> None:
        if request.host not in hosts:
            abort(403)
        if request.method == "POST" and not secrets.compare_digest(request.form.get("secret", "").encode(), secret.encode()):
            abort(403)

    @app.after_request
    def protect(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.errorhandler(UserError)
    def explain(error: UserError) -> tuple[str, int]:
        return page(error=str(error))

    @app.errorhandler(RequestEntityTooLarge)
    def too_large(error: RequestEntityTooLarge) -> tuple[str, int]:
        return page(error=f"expected at most {MOST_BYTES / 2**20:g} MB and {MOST_PHOTOS} photos in one upload, got more")[0], 413

    @app.errorhandler(405)
    def back(error: Exception) -> AnyResponse:
        return redirect(url_for("show"), 303)  # the address of a form, reloaded

    @app.get("/")
    def show() -> tuple[str, int]:
        return page()

    @app.post("/add")
    def add() -> AnyResponse:
        session.add(request.form.get("name", ""), _files(request.files.getlist("photos")))
        return redirect(url_for("show"), 303)

    @app.post("/remove")
    def remove() -> AnyResponse:
        session.remove(request.form.get("name", ""))
        return redirect(url_for("show"), 303)

    @app.post("/classify")
    def classify() -> tuple[str, int]:
        return page(labelled=session.classify(_files(request.files.getlist("photos"))))

    @app.post("/save")
    def save() -> Response:
        learner = request.form.get("learner", "")
        if learner not in learners:
            abort(404)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "classifier.safetensors"
            session.fitted(learner).save(file)
            content = io.BytesIO(file.read_bytes())
        return send_file(content, "application/octet-stream", as_attachment=True, download_name="classifier.safetensors")

    return app


def _files(uploads: list[FileStorage]) -> list[tuple[str, bytes]]:
    """Names and contents of the uploaded files; a form without a chosen file sends an empty one."""
    return [(upload.filename, upload.read()) for upload in uploads if upload.filename]
