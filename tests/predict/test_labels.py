import csv
import io
import json

import pytest
import torch

from datafree.predict.classifier import fit
from datafree.predict.labels import NONE_OF_THESE, WRITERS, Label, label

CLASSES = ["ant", "<b>é</b>", '猫,"x"']
ROWS = [
    Label("a.png", "ant", "ant", 0.75, dict(zip(CLASSES, (0.75, 0.2, 0.05), strict=True))),
    Label("dir/[red]b.png", None, "<b>é</b>", 0.4, dict(zip(CLASSES, (0.3, 0.4, 0.3), strict=True))),
    Label("new\x1b[2J\nline.png", '猫,"x"', '猫,"x"', 1.0, dict(zip(CLASSES, (0.0, 0.0, 1.0), strict=True))),
]


def test_labels_are_those_of_the_classifier():
    rng = torch.Generator().manual_seed(0)
    support, labels = torch.randn(12, 5, generator=rng), torch.arange(12) % 3
    classifier = fit(support, labels, 3, torch.randn(20, 5, generator=rng), reject=0.3)
    queries = torch.randn(40, 5, generator=rng)
    rows = label(classifier, CLASSES, [str(number) for number in range(40)], queries)
    probabilities, rejected = classifier.logits(queries).double().softmax(1), classifier.rejected(queries)
    assert 0 < rejected.sum() < 40
    for row, name, of_image, unlike in zip(rows, range(40), probabilities, rejected.tolist(), strict=True):
        best = int(of_image.argmax())
        assert (row.image, row.nearest, row.label) == (str(name), CLASSES[best], None if unlike else CLASSES[best])
        assert row.probability == of_image[best].item()
        assert row.probabilities == dict(zip(CLASSES, of_image.tolist(), strict=True))
        assert row.ranked(2) == sorted(row.probabilities.items(), key=lambda pair: pair[1], reverse=True)[:2]


@pytest.mark.parametrize("every", [False, True])
def test_csv_keeps_every_name(every):
    read = list(csv.DictReader(io.StringIO(WRITERS["csv"](ROWS, CLASSES, every))))
    assert [row["image"] for row in read] == [row.image for row in ROWS]
    assert [row["label"] for row in read] == ["ant", NONE_OF_THESE, '猫,"x"']
    assert [row["nearest"] for row in read] == ["ant", "<b>é</b>", '猫,"x"']
    assert [float(row["probability"]) for row in read] == [0.75, 0.4, 1.0]
    assert ('probability of 猫,"x"' in read[0]) is every


@pytest.mark.parametrize("every", [False, True])
def test_json_lines_keep_every_name(every):
    read = [json.loads(line) for line in WRITERS["jsonl"](ROWS, CLASSES, every).split("\n")[:-1]]
    assert [row["image"] for row in read] == [row.image for row in ROWS]
    assert [row["label"] for row in read] == ["ant", None, '猫,"x"']
    assert read[1]["probability"] == 0.4
    assert read[1].get("probabilities") == ({"ant": 0.3, "<b>é</b>": 0.4, '猫,"x"': 0.3} if every else None)


@pytest.mark.parametrize("every", [False, True])
def test_the_table_shows_names_as_they_are_but_no_control_characters(every):
    text = WRITERS["table"](ROWS, CLASSES, every)
    assert "[red]b.png" in text
    assert "75.0 %" in text
    assert NONE_OF_THESE in text
    assert "\x1b[2J" not in text
    assert ("30.0 %" in text) is every


@pytest.mark.parametrize("name", WRITERS)
def test_no_image_gives_a_text_without_rows(name):
    assert "ant" not in WRITERS[name]([], CLASSES, False)
