import dataclasses

import pytest
import torch

from datafree.config import EvaluationConfig
from datafree.data.images import ImageSet
from datafree.evaluation.baselines import pixels
from datafree.evaluation.few_shot import Concatenated
from datafree.evaluation.intervals import mean_interval
from datafree.evaluation.nearest_centroid import nearest_centroid
from datafree.evaluation.rows import BEST, EvaluatedModel
from datafree.evaluation.table import accuracy_table

CPU = torch.device("cpu")
CONFIG = EvaluationConfig(way=3, shots=[1, 2], query=3, episodes=15)


def model(name, embedding, kind="baseline", seed=0, parameters=5) -> EvaluatedModel:
    return EvaluatedModel(name, kind, f"about {name}", embedding, 1, parameters, seed)


def noisy(level):
    """Features are the pixel values with Gaussian noise of standard deviation ``level``."""

    def embedding(images):
        rng = torch.Generator().manual_seed(level)
        return {"features": images.flatten(1).float() + level * torch.randn(images.flatten(1).shape, generator=rng)}

    return embedding


# ---- the table --------------------------------------------------------------------------------------------------------------------------


def test_there_is_a_row_per_name_in_the_order_of_the_models(image_set):
    models = [model("arm", noisy(5), "arm", seed) for seed in (0, 1, 2)] + [
        model("pixels", pixels),
        model("oracle", pixels, "oracle"),
    ]
    rows = accuracy_table(models, image_set, CONFIG, 0, CPU)
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


def test_the_numbers_of_a_seed_are_those_of_its_episodes(image_set):
    models = [model("arm", noisy(400), "arm", 3), model("arm", noisy(900), "arm", 4)]
    shots = accuracy_table(models, image_set, CONFIG, 0, CPU)[0]["shots"]["1"]
    single = [accuracy_table([seed], image_set, CONFIG, 0, CPU)[0]["shots"]["1"] for seed in models]
    assert [entry["seed"] for entry in shots["per_seed"]] == [3, 4]
    assert [entry["mean"] for entry in shots["per_seed"]] == [entry["mean"] for entry in single]
    assert shots["mean"] == pytest.approx((single[0]["mean"] + single[1]["mean"]) / 2)
    assert single[0]["mean"] != single[1]["mean"]


def correct_at(shot):
    """A classifier that is always right with this many shots and always wrong with others."""

    def classify(support, query):
        target = torch.arange(3).repeat_interleave(3)
        predicted = target if support.shape[-2] == shot else (target + 1) % 3
        return predicted.expand(len(query), -1)

    return classify


def test_the_best_teacher_is_chosen_for_each_shot(image_set):
    models = [dataclasses.replace(model(f"{BEST}/{shot}", pixels), classify=correct_at(shot)) for shot in (1, 2)]
    (row,) = accuracy_table(models, image_set, CONFIG, 0, CPU)
    assert row["name"] == BEST
    assert row["shots"]["1"]["mean"] == row["shots"]["2"]["mean"] == 1
    assert row["shots"]["1"]["n"] == 15  # episodes of one teacher, not of both


def test_better_features_score_better_and_the_result_is_reproducible(image_set):
    rows = accuracy_table([model("clear", pixels), model("noisy", noisy(400))], image_set, CONFIG, 0, CPU)
    assert rows == accuracy_table([model("clear", pixels), model("noisy", noisy(400))], image_set, CONFIG, 0, CPU)
    assert rows[0]["shots"]["1"]["mean"] > rows[1]["shots"]["1"]["mean"] + 0.2
    assert rows[0]["shots"]["1"]["mean"] == pytest.approx(mean_interval([rows[0]["shots"]["1"]["mean"]])["mean"])


def test_variants_of_one_learner_have_rows_of_their_own(image_set):
    models = [
        EvaluatedModel("arm", "arm", "plain", pixels, 1, 5, seed, variant)
        for seed in (0, 1)
        for variant in ("", "logistic", "transductive")
    ]
    rows = accuracy_table(models, image_set, CONFIG, 0, CPU)
    assert [(row["name"], row["variant"], row["seeds"]) for row in rows] == [
        ("arm", "", [0, 1]),
        ("arm logistic", "logistic", [0, 1]),
        ("arm transductive", "transductive", [0, 1]),
    ]


def test_a_given_classifier_or_solver_is_used(image_set):
    first = EvaluatedModel(
        "first", "arm", "", pixels, 1, 5, classify=lambda support, query: torch.zeros(query.shape[:-1], dtype=torch.int64)
    )
    solve = torch.arange(3).repeat_interleave(3)
    second = EvaluatedModel("second", "arm", "", pixels, 1, 5, solve=lambda support, query: solve)
    rows = accuracy_table([first, second], image_set, CONFIG, 0, CPU)
    assert rows[0]["shots"]["2"]["mean"] == pytest.approx(1 / 3)
    assert rows[1]["shots"]["2"]["mean"] == 1


# ---- domains ----------------------------------------------------------------------------------------------------------------------------


def in_domains(image_set, *names):
    """The same images; class c belongs to domain c modulo the number of domains."""
    return ImageSet(image_set.images, image_set.labels, tuple(f"{names[c % len(names)]}.{c}" for c in range(len(image_set.classes))))


@pytest.mark.parametrize("solving", [False, True])
def test_each_episode_is_of_one_domain_and_the_row_covers_all_domains(image_set, solving):
    images = in_domains(image_set, "photos", "drawings", "maps")
    config = dataclasses.replace(CONFIG, by_domain=True)
    episodes = []

    def solve(support, query):
        episodes.append(torch.cat([support.flatten(0, 1), query]))
        return nearest_centroid(support.flatten(2).float(), query.flatten(1).float())

    arm = model("arm", noisy(900), "arm")
    (row,) = accuracy_table([dataclasses.replace(arm, solve=solve) if solving else arm], images, config, 0, CPU)
    assert list(row["domains"]) == ["drawings", "maps", "photos"]
    for shot in ("1", "2"):
        within = [row["domains"][domain][shot] for domain in row["domains"]]
        assert row["shots"][shot]["mean"] == pytest.approx(sum(entry["mean"] for entry in within) / 3)
        assert row["shots"][shot]["n"] == 45
        assert [entry["n"] for entry in within] == [15] * 3
    domain_of = {
        image.numpy().tobytes(): images.classes[label][:1] for image, label in zip(images.images, images.labels.tolist(), strict=True)
    }
    assert all(len({domain_of[image.numpy().tobytes()] for image in episode}) == 1 for episode in episodes)
    assert len(episodes) == (90 if solving else 0)


def test_a_domains_numbers_are_those_of_its_images_alone(image_set):
    images = in_domains(image_set, "photos", "drawings")
    both = accuracy_table([model("pixels", pixels)], images, dataclasses.replace(CONFIG, by_domain=True), 0, CPU)[0]
    alone = images.of_classes([1, 3, 5, 7, 9, 11])
    assert accuracy_table([model("pixels", pixels)], alone, CONFIG, 0, CPU)[0]["shots"] == both["domains"]["drawings"]


def test_without_by_domain_a_row_has_no_domains(image_set):
    assert "domains" not in accuracy_table([model("pixels", pixels)], image_set, CONFIG, 0, CPU)[0]


def test_the_features_of_a_network_are_computed_once_for_its_classifiers(image_set):
    calls = []

    def counting(images):
        calls.append(len(images))
        return pixels(images)

    arm, other = model("arm", counting, "arm"), model("arm", pixels, "arm")
    accuracy_table([arm, dataclasses.replace(arm, variant="logistic"), other, arm], image_set, CONFIG, 0, CPU)
    assert sum(calls) == 2 * len(image_set.labels)


def test_concatenated_networks_reuse_the_features_of_each(image_set):
    calls = []

    def counting(images):
        calls.append(len(images))
        return pixels(images)

    other = noisy(5)
    both = Concatenated([counting, other])
    models = [model("one", counting), model("other", other), model("both", both), model("both again", both)]
    rows = accuracy_table(models, image_set, CONFIG, 0, CPU)
    assert sum(calls) == len(image_set.labels)
    assert rows[2]["shots"] == rows[3]["shots"]
    assert rows[2]["shots"] == accuracy_table([model("both", lambda images: both(images))], image_set, CONFIG, 0, CPU)[0]["shots"]
