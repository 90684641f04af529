import pytest
import torch

from datafree.config import AdaptationConfig, AdaptedPart, BackboneConfig, EvaluationConfig, as_tree
from datafree.evaluation.few_shot import EpisodesSolver
from datafree.evaluation.logistic import logistic
from datafree.evaluation.nearest_centroid import nearest_centroid
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
    assert list(models) == ["pixels", "random", *singles, "averaged teachers", "all teachers", "teachers' vote"]
    assert {model.kind for model in models.values()} == {"baseline"}
    size = parameter_count(teachers[0].network.backbone)
    for name in ("all teachers", "teachers' vote"):
        assert (models[name].networks, models[name].parameters) == (3, 3 * size)
    assert (models["pixels"].networks, models["pixels"].parameters) == (0, 0)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert models["all teachers"].embedding(images).shape == (4, 3 * teachers[0].network.backbone.feature_size)
    assert torch.allclose(models[singles[1]].embedding(images), teachers[1].features(images), atol=1e-5)


def test_features_of_all_teachers_together_are_those_of_each(teachers, make_teacher, image_set):
    zoo = [*teachers, make_teacher("other", ("a", "b"), 5, architecture="resnet8")]
    models = [baselines(zoo, (3, 32, 32), CONFIG, 0, CPU, together=flag) for flag in (False, True)]
    whole = next(model.embedding for model in models[1] if model.name == "all teachers")
    for part, features in zip(whole.parts, whole.all_parts(image_set.images), strict=True):
        assert torch.allclose(features, part(image_set.images), atol=1e-5)
    alone, together = (accuracy_table(of_one, image_set, CONFIG, 0, CPU) for of_one in models)
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


def trained(weights_seed=0, **card) -> TrainedNetwork:
    backbone = build(BackboneConfig("conv4_strided", 8), 3, 32, weights_seed)
    return TrainedNetwork({"backbone": {"name": "conv4_strided"}, **card}, backbone, Normalise([0.5] * 3, [0.25] * 3))


def trained_arm(adaptation, seed=0) -> TrainedNetwork:
    return trained(seed, arm="a", seed=seed, method="m", inversion="five", adaptation=adaptation)


def test_learners_have_the_name_seed_and_features_of_their_network():
    networks = [trained_arm(NOTHING, seed) for seed in (0, 1)]
    first, second = learners(networks, CONFIG, CPU)
    assert (first.name, first.kind, first.seed, second.seed) == ("a", "arm", 0, 1)
    assert first.description == "m on images recovered by five; conv4_strided"
    assert first.parameters == parameter_count(networks[0].backbone)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    expected = networks[1].backbone((images / 255 - 0.5) / 0.25)
    assert torch.allclose(second.embedding(images), expected, atol=1e-5)
    assert not torch.allclose(first.embedding(images), expected, atol=1e-3)


def test_oracles_are_named_by_their_reference_or_method():
    cards = [{"reference": "oracle"}, {"reference": "searched"}, {"reference": "protonet", "method": "protonet"}]
    networks = [trained(**card) for card in cards]
    models = oracles(networks, CONFIG, CPU)
    assert [model.name for model in models] == ["real-data oracle", "real-data oracle, searched", "real-data protonet"]
    assert {model.kind for model in models} == {"oracle"}
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert torch.allclose(models[0].embedding(images), networks[0].backbone((images / 255 - 0.5) / 0.25), atol=1e-5)


BOTH = {"inference": ["inductive", "transductive"], "classifiers": ["nearest_centroid", "logistic"]}


def test_a_feature_extractor_is_evaluated_by_every_classifier_and_inference():
    models = learners([trained_arm(NOTHING)], EvaluationConfig(**BOTH), CPU)
    assert [(model.variant, model.classify, model.solve is None) for model in models] == [
        ("", nearest_centroid, True),
        ("logistic", logistic, True),
        ("transductive", nearest_centroid, False),
        ("transductive logistic", logistic, False),
    ]


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
    assert all(model.classify is (logistic if model.variant else nearest_centroid) for model in models if model.name != "teachers' vote")


def test_every_teacher_has_one_vote(teachers, image_set):
    """Compared with a count over the predictions from each teacher's features."""
    *_, voting = baselines(teachers, (3, 32, 32), CONFIG, 0, CPU)
    episode = torch.stack([image_set.images[image_set.labels == label][:4] for label in range(3)])
    predictions = []
    for teacher in teachers:
        features = teacher.features(episode.flatten(0, 1)).unflatten(0, (3, 4))
        predictions.append(nearest_centroid(features[:, :2], features[:, 2:].flatten(0, 1)).tolist())
    expected = [max(range(3), key=lambda label: votes.count(label)) for votes in zip(*predictions, strict=True)]
    features = voting.embedding(episode.flatten(0, 1)).unflatten(0, (3, 4))
    assert voting.classify(features[:, :2], features[:, 2:].flatten(0, 1)).tolist() == expected
