import json

import pytest

from datafree.predict.model_card import LIMITS, as_markdown, model_card

TEACHERS = [
    {"name": "a_b", "classes": 3, "licence": "MIT", "source": "https://x/y", "sha256": "0" * 64},
    {"name": "<script>|x|", "classes": 5, "licence": "unknown", "source": "a\n# heading", "sha256": "1" * 64},
    {"name": "猫", "classes": 2, "licence": "MIT", "source": "", "sha256": "2" * 64},
]
ACCURACY = {
    "split": "validation",
    "way": 5,
    "seeds": 3,
    "computed_on": ["float32 on x86_64 AVX2"],
    "shots": {"1": {"mean": 0.4712, "interval": 0.0081, "n": 600}},
}


@pytest.fixture
def card(learner):
    return {**learner.card, "method": "distillation", "inversion": "five", "seed": 0, "parameters": 1234567, "macs": 5, "sha256": "f" * 64}


def test_the_card_says_how_a_learner_was_made_and_what_it_was_measured_to_do(card):
    described = model_card({**card, "teachers": TEACHERS, "accuracy": ACCURACY})
    assert described["name"] == "distillation"
    assert described["made"] == {"method": "distillation", "inversion": "five", "seed": 0}
    assert described["licences"] == {"MIT": 2, "unknown": 1}
    assert described["accuracy"] == ACCURACY
    assert described["teachers"] == TEACHERS
    assert described["sha256"] == "f" * 64
    assert "squares of 16 pixels" in " ".join(described["limits"])
    assert json.loads(json.dumps(described)) == described


def test_markdown_has_every_number(card):
    text = as_markdown(model_card({**card, "teachers": TEACHERS, "accuracy": ACCURACY}))
    assert "| 1 | 47.1 ± 0.8 | 600 |" in text
    assert "5-way, on the validation classes, over 3 seeds of training, computed in float32 on x86\\_64 AVX2." in text
    assert "parameters: 1,234,567" in text
    assert "f" * 64 in text
    assert text.count("\n- ") >= len(LIMITS)


def test_names_cannot_change_the_page(card):
    text = as_markdown(model_card({**card, "teachers": TEACHERS, "accuracy": None}))
    assert "<script>" not in text
    assert "\n# heading" not in text
    row = next(line for line in text.splitlines() if "script" in line)
    assert row.replace("\\|", "").count("|") == 6
    assert "Not measured." in text


def test_a_teacher_and_a_learner_of_unknown_origin_have_a_card(learner):
    teacher = model_card({**learner.card, "teacher": "resnet", "licence": "CC0", "accuracy": None})
    assert (teacher["name"], teacher["licences"]) == ("resnet", {"CC0": 1})
    assert teacher["kind"].startswith("teacher")
    bare = model_card({key: value for key, value in learner.card.items() if key != "arm"})
    assert bare["licences"] == {"unknown": 1}
    assert "- unknown" in as_markdown(bare)


def test_no_value_of_a_strangers_card_can_change_the_page(card):
    evil = "</p><script>alert(1)</script>\n# Heading\x1b[2J"
    accuracy = {**ACCURACY, "split": evil, "way": evil, "seeds": evil, "shots": {evil: ACCURACY["shots"]["1"]}}
    teachers = [{"name": "t", "classes": evil, "licence": "l", "source": "s", "sha256": evil}]
    text = as_markdown(model_card({**card, "sha256": evil, "teachers": teachers, "accuracy": accuracy, "arm": evil}))
    assert not {"<script>", "\n# Heading", "\x1b"} & {part for part in ("<script>", "\n# Heading", "\x1b") if part in text}
