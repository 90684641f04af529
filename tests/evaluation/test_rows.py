import dataclasses

import pytest
import torch

from datafree import devices
from datafree.config import AdaptationConfig, AdaptedPart, BackboneConfig, EvaluationConfig, as_tree
from datafree.distillation.heads import TeacherHeads
from datafree.evaluation.few_shot import EpisodesSolver
from datafree.evaluation.logistic import logistic
from datafree.evaluation.nearest_centroid import nearest_centroid
from datafree.evaluation.readouts import READOUTS
from datafree.evaluation.representations import JoinWeights
from datafree.evaluation.rows import BEST, TrainedNetwork, baselines, learners, oracles
from datafree.evaluation.table import accuracy_table
from datafree.evaluation.task_adaptation import StackedAdaptation, StackedTransduction
from datafree.zoo.backbones import Normalise, build, parameter_count

CPU = torch.device("cpu")
CONFIG = EvaluationConfig(way=3, shots=[1, 2], query=3, episodes=15)
NOTHING = as_tree(AdaptationConfig())

# ---- baselines --------------------------------------------------------------------------------------------------------------------------


def test_all_baselines_are_in_the_table(teachers):
    models = {model.name: model for model in baselines(teachers, (3, 32, 32), CONFIG, 0, CPU)}
    singles = [f"{BEST}/{teacher.name}" for teacher in teachers]
    assert list(models) == ["pixels", "random", "averaged teachers", *singles, "all teachers", "teachers' vote"]
    assert {model.kind for model in models.values()} == {"baseline"}
    size = parameter_count(teachers[0].network.backbone)
    for name in ("all teachers", "teachers' vote"):
        assert (models[name].networks, models[name].parameters) == (3, 3 * size)
    assert (models["pixels"].networks, models["pixels"].parameters) == (0, 0)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    counts = [teacher.network.backbone.feature_size + len(teacher.classes) for teacher in teachers]
    assert models["all teachers"].embedding(images)["joined"].shape == (4, sum(counts))


@pytest.mark.parametrize("mirrored", [False, True])
def test_representations_of_all_teachers_together_are_those_of_each(teachers, make_teacher, image_set, mirrored):
    zoo = [*teachers, make_teacher("other", ("a", "b"), 5, architecture="resnet8")]
    config = dataclasses.replace(CONFIG, readouts=list(READOUTS), mirrored=mirrored)
    models = [baselines(zoo, (3, 32, 32), config, 0, CPU, together=flag) for flag in (False, True)]
    whole = next(model.embedding for model in models[1] if model.name == "all teachers")
    for part, of_part in zip(whole.parts, whole.all_parts(image_set.images), strict=True):
        expected = part(image_set.images)
        assert list(of_part) == list(expected) == list(READOUTS)
        assert all(torch.allclose(of_part[name], expected[name], atol=1e-5) for name in READOUTS)
    alone, together = (accuracy_table(of_one, image_set, config, 0, CPU) for of_one in models)
    assert alone == together


def test_on_a_gpu_episodes_are_solved_together_unless_the_network_cannot_be_stacked():
    config = EvaluationConfig(**BOTH)
    for adaptation, kind in ((NOTHING, StackedTransduction), (as_tree(AdaptationConfig(AdaptedPart.network, 2, 0.1)), StackedAdaptation)):
        networks = [trained_arm(adaptation)]
        solvers = [model.solve for model in learners(networks, config, CPU, together=True) if model.solve]
        assert solvers and all(isinstance(solve, kind) for solve in solvers)
        networks[0].backbone.blocks[0].norm = torch.nn.SyncBatchNorm(8)
        assert not any(isinstance(model.solve, EpisodesSolver) for model in learners(networks, config, CPU, together=True))


def test_an_average_of_different_architectures_has_no_row(teachers, make_teacher):
    mixed = [*teachers, make_teacher("other", ("a", "b"), 5, architecture="resnet8")]
    models = {model.name: model for model in baselines(mixed, (3, 32, 32), CONFIG, 0, CPU)}
    assert "averaged teachers" not in models
    assert models[f"{BEST}/other"].parameters == parameter_count(mixed[3].network.backbone)


# ---- learners and oracles ---------------------------------------------------------------------------------------------------------------


def trained(weights_seed=0, heads=None, **card) -> TrainedNetwork:
    backbone = build(BackboneConfig("conv4_strided", 8), 3, 32, weights_seed)
    card = {"backbone": {"name": "conv4_strided"}, **card}
    return TrainedNetwork(card, backbone, Normalise([0.5] * 3, [0.25] * 3), heads, JoinWeights(2.0, 3.0))


def trained_arm(adaptation, seed=0, heads=None) -> TrainedNetwork:
    return trained(seed, heads, arm="a", seed=seed, method="m", inversion="five", adaptation=adaptation)


def test_learners_have_the_name_seed_and_features_of_their_network():
    networks = [trained_arm(NOTHING, seed) for seed in (0, 1)]
    first, second = learners(networks, CONFIG, CPU)
    assert (first.name, first.kind, first.seed, second.seed) == ("a", "arm", 0, 1)
    assert first.description == "m on images recovered by five; conv4_strided; read by features (no trained heads)"
    assert first.parameters == parameter_count(networks[0].backbone)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    expected = networks[1].backbone((images / 255 - 0.5) / 0.25)
    assert torch.allclose(second.embedding(images)["features"], expected, atol=1e-5)
    assert not torch.allclose(first.embedding(images)["features"], expected, atol=1e-3)


def test_oracles_are_named_by_their_reference_or_method():
    cards = [{"reference": "oracle"}, {"reference": "searched"}, {"reference": "protonet", "method": "protonet"}]
    heads = [torch.nn.Linear(trained().backbone.feature_size, 4), None, None]
    networks = [trained(heads=head, **card) for head, card in zip(heads, cards, strict=True)]
    models = oracles(networks, CONFIG, CPU)
    assert [model.name for model in models] == ["real-data oracle", "real-data oracle, searched", "real-data protonet"]
    assert {model.kind for model in models} == {"oracle"}
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    features = networks[0].backbone((images / 255 - 0.5) / 0.25)
    root = torch.nn.functional.normalize(features.sqrt(), dim=1)
    expected = torch.cat([2 * root, 3 * (heads[0](features) / 4).softmax(1)], 1)
    assert torch.allclose(models[0].embedding(images)["joined"], expected, atol=1e-5)
    assert torch.allclose(models[1].embedding(images)["features"], networks[1].backbone((images / 255 - 0.5) / 0.25), atol=1e-5)


BOTH = {"inference": ["inductive", "transductive"], "classifiers": ["nearest_centroid", "logistic"]}


def test_a_feature_extractor_is_evaluated_by_every_classifier_and_inference():
    models = learners([trained_arm(NOTHING)], EvaluationConfig(**BOTH), CPU)
    assert [(model.variant, model.classify, model.solve is None) for model in models] == [
        ("", nearest_centroid, True),
        ("logistic", logistic, True),
        ("transductive", nearest_centroid, False),
        ("transductive logistic", logistic, False),
    ]


def some_heads():
    with devices.seeded_initialisation(0):
        return TeacherHeads(trained().backbone.feature_size, [3, 2])


@pytest.mark.parametrize(
    ("readouts", "with_heads", "without"),
    [
        (["joined"], [("", "joined")], [("", "features")]),
        (["features"], [("features", "features")], [("", "features")]),
        (["probabilities"], [("probabilities", "probabilities")], [("", "features")]),
        (list(READOUTS), [("", "joined"), *((name, name) for name in list(READOUTS)[1:])], [("", "features"), ("root_features",) * 2]),
    ],
)
def test_every_network_has_a_row_per_read_out_that_it_allows_and_the_plain_one_has_its_name(image_set, readouts, with_heads, without):
    config = dataclasses.replace(CONFIG, readouts=readouts)
    for heads, expected in ((some_heads(), with_heads), (None, without)):
        models = learners([trained_arm(NOTHING, heads=heads)], config, CPU)
        assert [(model.variant, model.readout) for model in models] == expected
        for model, row in zip(models, accuracy_table(models, image_set, config, 0, CPU), strict=True):
            assert row["name"] == " ".join(["a", model.variant]).strip()
            assert f"read by {model.readout.replace('_', ' ')}" in row["description"]
            assert row["description"].endswith("(no trained heads)") == (heads is None and model.readout == "features")


def test_an_adapting_learner_has_no_read_outs(image_set):
    config = dataclasses.replace(CONFIG, readouts=list(READOUTS), mirrored=True)
    plain = learners([trained_arm({"part": "head", "steps": 3, "learning_rate": 0.05})], CONFIG, CPU)
    models = learners([trained_arm({"part": "head", "steps": 3, "learning_rate": 0.05})], config, CPU)
    assert [model.variant for model in models] == [""]
    assert accuracy_table(models, image_set, config, 0, CPU) == accuracy_table(plain, image_set, CONFIG, 0, CPU)


def test_the_representation_of_mirrored_views_is_the_same_for_an_image_and_its_mirror_image():
    images, heads = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), some_heads()
    plain, mirrored = (
        learners([trained_arm(NOTHING, heads=heads)], dataclasses.replace(CONFIG, mirrored=flag, readouts=list(READOUTS)), CPU)[0]
        for flag in (False, True)
    )
    flipped = mirrored.embedding(images.flip(-1))
    views = [plain.embedding(images), plain.embedding(images.flip(-1))]
    for name, value in mirrored.embedding(images).items():
        torch.testing.assert_close(value, (views[0][name] + views[1][name]) / 2)
        torch.testing.assert_close(value, flipped[name])
        assert not torch.allclose(value, views[0][name], atol=1e-5)


@pytest.mark.parametrize(("part", "on_features"), [("head", True), ("network", False)])
def test_an_adapting_learner_is_evaluated_by_its_own_steps(image_set, part, on_features):
    network = trained_arm({"part": part, "steps": 3, "learning_rate": 0.05})
    inductive, transductive = learners([network], EvaluationConfig(**BOTH), CPU)
    assert (inductive.variant, transductive.variant) == ("", "transductive")
    assert (inductive.solve is None) == on_features
    assert transductive.solve is not None
    assert inductive.description.endswith(f"3 gradient steps of 0.05 on the {'head' if part == 'head' else 'whole network'}")
    rows = accuracy_table([inductive, transductive], image_set, CONFIG, 0, CPU)
    assert [row["name"] for row in rows] == ["a", "a transductive"]
    assert all(row["shots"]["2"]["mean"] > 0.5 for row in rows)


def test_baselines_are_evaluated_by_every_classifier(teachers):
    models = baselines(teachers, (3, 32, 32), EvaluationConfig(**BOTH), 0, CPU)
    plain = baselines(teachers, (3, 32, 32), CONFIG, 0, CPU)
    assert [(model.name, model.variant) for model in models] == [(model.name, v) for model in plain for v in ("", "logistic")]
    assert all(model.classify is (logistic if model.variant else nearest_centroid) for model in models if model.networks < 2)


def test_all_teachers_joined_have_their_root_features_at_half_weight_beside_their_probabilities(teachers, image_set):
    """Compared with the two parts, put together here; each teacher's has unit length."""
    (whole,) = (model for model in baselines(teachers, (3, 32, 32), CONFIG, 0, CPU) if model.name == "all teachers")
    images = torch.cat([image_set.images[image_set.labels == label][:4] for label in range(3)])
    parts = []
    for teacher in teachers:
        features = teacher.features(images)
        root = torch.nn.functional.normalize(features.abs().sqrt() * features.sign(), dim=1)
        probabilities = (teacher.network.head(features) / 4).softmax(1)
        length = torch.cat([4 * root, probabilities], 1).norm(dim=1, keepdim=True)
        parts.append(torch.cat([0.5 * root, probabilities], 1) / length)
    expected = torch.cat(parts, 1).unflatten(0, (3, 4))
    given = whole.embedding(images)["joined"].unflatten(0, (3, 4))
    assert torch.equal(
        whole.classify(given[:, :2], given[:, 2:].flatten(0, 1)), nearest_centroid(expected[:, :2], expected[:, 2:].flatten(0, 1))
    )


def test_every_teacher_has_one_vote(teachers, image_set):
    """Compared with a count over the predictions from each teacher's features."""
    *_, voting = baselines(teachers, (3, 32, 32), dataclasses.replace(CONFIG, readouts=["features"]), 0, CPU)
    episode = torch.stack([image_set.images[image_set.labels == label][:4] for label in range(3)])
    predictions = []
    for teacher in teachers:
        features = teacher.features(episode.flatten(0, 1)).unflatten(0, (3, 4))
        predictions.append(nearest_centroid(features[:, :2], features[:, 2:].flatten(0, 1)).tolist())
    expected = [max(range(3), key=lambda label: votes.count(label)) for votes in zip(*predictions, strict=True)]
    features = voting.embedding(episode.flatten(0, 1))["features"].unflatten(0, (3, 4))
    assert voting.classify(features[:, :2], features[:, 2:].flatten(0, 1)).tolist() == expected
