import dataclasses

import pytest
import torch

from datafree.config import EvaluationConfig
from datafree.data.images import ImageSet
from datafree.evaluation.baselines import pixels
from datafree.evaluation.classifiers import nearest_centroid
from datafree.evaluation.few_shot import Concatenated
from datafree.evaluation.intervals import mean_interval
from datafree.evaluation.rows import BEST, EvaluatedModel
from datafree.evaluation.table import compare

CPU = torch.device("cpu")
CONFIG = EvaluationConfig(way=3, shots=[1, 2], query=3, episodes=15)


def model(name, embedding, kind="baseline", seed=0, parameters=5) -> EvaluatedModel:
    return EvaluatedModel(name, kind, f"about {name}", embedding, 1, parameters, seed)


def noisy(level):
    """Features that are the pixels under noise of so many grey levels."""

    def embedding(images):
        rng = torch.Generator().manual_seed(level)
        return images.flatten(1).float() + level * torch.randn(images.flatten(1).shape, generator=rng)

    return embedding


# ---- the table --------------------------------------------------------------------------------------------------------------------------


def test_a_row_per_name_in_the_order_of_the_entrants(image_set):
    models = [model("arm", noisy(5), "arm", seed) for seed in (0, 1, 2)] + [
        model("pixels", pixels),
        model("oracle", pixels, "oracle"),
    ]
    rows = compare(models, image_set, CONFIG, 0, CPU)
    assert [(row["name"], row["kind"], row["seeds"]) for row in rows] == [
        ("arm", "arm", [0, 1, 2]),
        ("pixels", "baseline", [0]),
        ("oracle", "oracle", [0]),
    ]
    assert all(list(row["shots"]) == ["1", "2"] for row in rows)
    assert rows[0]["shots"]["1"]["n"] == 45
    assert len(rows[0]["shots"]["1"]["per_seed"]) == 3
    assert rows[1]["shots"] == rows[2]["shots"]  # equal features on the same episodes
    assert rows[1]["description"] == "about pixels"


def test_a_seeds_own_numbers_are_those_of_its_episodes(image_set):
    models = [model("arm", noisy(400), "arm", 3), model("arm", noisy(900), "arm", 4)]
    shots = compare(models, image_set, CONFIG, 0, CPU)[0]["shots"]["1"]
    alone = [compare([one], image_set, CONFIG, 0, CPU)[0]["shots"]["1"] for one in models]
    assert [entry["seed"] for entry in shots["per_seed"]] == [3, 4]
    assert [entry["mean"] for entry in shots["per_seed"]] == [one["mean"] for one in alone]
    assert shots["mean"] == pytest.approx((alone[0]["mean"] + alone[1]["mean"]) / 2)
    assert alone[0]["mean"] != alone[1]["mean"]


def test_the_best_teacher_is_chosen_for_each_shot(image_set, monkeypatch):
    # One teacher is better at one shot, the other at two.
    scores = {"one": {1: 0.8, 2: 0.5}, "two": {1: 0.6, 2: 0.9}}

    def pretend(features, rows, shot, classify):
        return [scores["one" if features[0, 0] == 1 else "two"][shot]] * len(rows)

    monkeypatch.setattr("datafree.evaluation.table.episode_accuracies", pretend)
    models = [model(f"{BEST}/one", lambda x: torch.ones(len(x), 1)), model(f"{BEST}/two", lambda x: torch.zeros(len(x), 1))]
    (row,) = compare(models, image_set, CONFIG, 0, CPU)
    assert row["name"] == BEST
    assert row["shots"]["1"]["mean"] == pytest.approx(0.8)
    assert row["shots"]["2"]["mean"] == pytest.approx(0.9)
    assert row["shots"]["1"]["n"] == 15  # of one teacher, not of all


def test_better_features_score_better_and_the_result_repeats(image_set):
    rows = compare([model("clear", pixels), model("noisy", noisy(400))], image_set, CONFIG, 0, CPU)
    assert rows == compare([model("clear", pixels), model("noisy", noisy(400))], image_set, CONFIG, 0, CPU)
    assert rows[0]["shots"]["1"]["mean"] > rows[1]["shots"]["1"]["mean"] + 0.2
    assert rows[0]["shots"]["1"]["mean"] == pytest.approx(mean_interval([rows[0]["shots"]["1"]["mean"]])["mean"])


def test_variants_of_one_learner_have_rows_of_their_own(image_set):
    models = [
        EvaluatedModel("arm", "arm", "plain", pixels, 1, 5, seed, variant)
        for seed in (0, 1)
        for variant in ("", "logistic", "transductive")
    ]
    rows = compare(models, image_set, CONFIG, 0, CPU)
    assert [(row["name"], row["variant"], row["seeds"]) for row in rows] == [
        ("arm", "", [0, 1]),
        ("arm logistic", "logistic", [0, 1]),
        ("arm transductive", "transductive", [0, 1]),
    ]


def test_a_classifier_and_a_solver_are_used_where_given(image_set):
    first = EvaluatedModel(
        "first", "arm", "", pixels, 1, 5, classify=lambda support, query: torch.zeros(query.shape[:-1], dtype=torch.int64)
    )
    solve = torch.arange(3).repeat_interleave(3)
    second = EvaluatedModel("second", "arm", "", pixels, 1, 5, solve=lambda support, query: solve)
    rows = compare([first, second], image_set, CONFIG, 0, CPU)
    assert rows[0]["shots"]["2"]["mean"] == pytest.approx(1 / 3)
    assert rows[1]["shots"]["2"]["mean"] == 1


# ---- domains ----------------------------------------------------------------------------------------------------------------------------


def in_domains(image_set, *names):
    """The same images, whose classes belong to the domains in turn."""
    return ImageSet(image_set.images, image_set.labels, tuple(f"{names[c % len(names)]}.{c}" for c in range(len(image_set.classes))))


@pytest.mark.parametrize("solving", [False, True])
def test_episodes_stay_within_a_domain_and_the_row_is_of_all_domains(image_set, solving):
    images = in_domains(image_set, "photos", "drawings", "maps")
    config = dataclasses.replace(CONFIG, by_domain=True)
    kept = []

    def solve(support, query):
        kept.append(torch.cat([support.flatten(0, 1), query]))
        return nearest_centroid(support.flatten(2).float(), query.flatten(1).float())

    one = model("arm", noisy(900), "arm")
    (row,) = compare([dataclasses.replace(one, solve=solve) if solving else one], images, config, 0, CPU)
    assert list(row["domains"]) == ["drawings", "maps", "photos"]
    for shot in ("1", "2"):
        within = [row["domains"][domain][shot] for domain in row["domains"]]
        assert row["shots"][shot]["mean"] == pytest.approx(sum(one["mean"] for one in within) / 3)
        assert row["shots"][shot]["n"] == 45
        assert [one["n"] for one in within] == [15] * 3
    domain_of = {
        image.numpy().tobytes(): images.classes[label][:1] for image, label in zip(images.images, images.labels.tolist(), strict=True)
    }
    assert all(len({domain_of[image.numpy().tobytes()] for image in episode}) == 1 for episode in kept)
    assert len(kept) == (90 if solving else 0)


def test_a_domain_is_judged_as_if_it_were_alone(image_set):
    images = in_domains(image_set, "photos", "drawings")
    both = compare([model("pixels", pixels)], images, dataclasses.replace(CONFIG, by_domain=True), 0, CPU)[0]
    alone = images.of_classes([1, 3, 5, 7, 9, 11])
    assert compare([model("pixels", pixels)], alone, CONFIG, 0, CPU)[0]["shots"] == both["domains"]["drawings"]


def test_without_domains_a_row_has_none(image_set):
    assert "domains" not in compare([model("pixels", pixels)], image_set, CONFIG, 0, CPU)[0]


def test_the_classifiers_of_a_network_share_its_features(image_set):
    calls = []

    def counting(images):
        calls.append(len(images))
        return pixels(images)

    one, other = model("arm", counting, "arm"), model("arm", pixels, "arm")
    compare([one, dataclasses.replace(one, variant="logistic"), other, one], image_set, CONFIG, 0, CPU)
    assert sum(calls) == 2 * len(image_set.labels)


def test_networks_side_by_side_take_the_features_that_each_had_before(image_set):
    calls = []

    def counting(images):
        calls.append(len(images))
        return pixels(images)

    other = noisy(5)
    both = Concatenated([counting, other])
    models = [model("one", counting), model("other", other), model("both", both), model("both again", both)]
    rows = compare(models, image_set, CONFIG, 0, CPU)
    assert sum(calls) == len(image_set.labels)
    assert rows[2]["shots"] == rows[3]["shots"]
    assert rows[2]["shots"] == compare([model("both", lambda images: both(images))], image_set, CONFIG, 0, CPU)[0]["shots"]
