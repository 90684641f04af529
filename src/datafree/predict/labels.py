"""The labels of images as rows, and their text forms: a table, CSV, JSON lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from datafree.errors import UserError, printable
from datafree.predict.classifier import FewShotClassifier

NONE_OF_THESE = "none of these"


def check_class_name(name: str) -> None:
    """Refuse the name of a class that could not be told from ``NONE_OF_THESE``, written to a file, or shown.

    Raises:
        UserError: it is one of these.
    """
    if name == NONE_OF_THESE:
        raise UserError(f"a class is named `{NONE_OF_THESE}`, which is the label of images unlike all classes; choose another name")
    if not name or printable(name) != name:
        raise UserError(f"class name {name!r}: expected at least one character, and no control characters; choose another name")


@dataclass(frozen=True)
class Label:
    """The label of an image: ``label`` is a class, or None for an image unlike all classes; ``nearest`` is the most similar class anyway.

    ``probability`` of ``nearest`` and ``probabilities`` by class are calibrated, in [0, 1], for an image of one of the classes.
    """

    image: str
    label: str | None
    nearest: str
    probability: float
    probabilities: Mapping[str, float]

    def ranked(self, count: int) -> list[tuple[str, float]]:
        """At most ``count`` classes with their probabilities, the most probable first."""
        return sorted(self.probabilities.items(), key=lambda pair: -pair[1])[:count]


def label(classifier: FewShotClassifier, classes: Sequence[str], names: Sequence[str], representations: Tensor) -> list[Label]:
    """The labels of images with representations [N, D]."""
    probabilities = classifier.logits(representations).double().softmax(1)
    rejected = classifier.rejected(representations).tolist()
    rows = []
    for name, of_image, unlike in zip(names, probabilities.tolist(), rejected, strict=True):
        by_class = dict(zip(classes, of_image, strict=True))
        nearest = max(by_class, key=by_class.__getitem__)
        rows.append(Label(name, None if unlike else nearest, nearest, by_class[nearest], by_class))
    return rows


def table(rows: Sequence[Label], classes: Sequence[str], every: bool) -> str:
    """Columns for a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    built = Table("image", "label", "probability", *(printable(name) for name in classes if every))
    for row in rows:
        cells = [printable(row.image), NONE_OF_THESE if row.label is None else printable(row.label), _percent(row.probability)]
        cells += [_percent(value) for value in row.probabilities.values() if every]
        built.add_row(*map(Text, cells), style="dim" if row.label is None else "")
    stream = io.StringIO()
    Console(file=stream, width=None if not every else 10_000).print(built)
    return stream.getvalue()


def comma_separated(rows: Sequence[Label], classes: Sequence[str], every: bool) -> str:
    """CSV with a header."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["image", "label", "nearest", "probability", *(f"probability of {name}" for name in classes if every)])
    for row in rows:
        name = NONE_OF_THESE if row.label is None else row.label
        writer.writerow(
            [row.image, name, row.nearest, _digits(row.probability), *(_digits(value) for value in row.probabilities.values() if every)]
        )
    return stream.getvalue()


def json_lines(rows: Sequence[Label], classes: Sequence[str], every: bool) -> str:
    """One JSON object per line; ``label`` is null for an image unlike all classes."""
    lines = []
    for row in rows:
        value = {"image": row.image, "label": row.label, "nearest": row.nearest, "probability": float(_digits(row.probability))}
        if every:
            value["probabilities"] = {name: float(_digits(of_class)) for name, of_class in row.probabilities.items()}
        lines.append(json.dumps(value, ensure_ascii=False) + "\n")
    return "".join(lines)


WRITERS: dict[str, Callable[[Sequence[Label], Sequence[str], bool], str]] = {
    "table": table,
    "csv": comma_separated,
    "jsonl": json_lines,
}


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _digits(value: float) -> str:
    return f"{value:.6f}"
