import pytest
import torch

from datafree import artifacts
from datafree.config import AdaptationConfig, BackboneConfig, EvaluationConfig, as_tree
from datafree.evaluation.classifiers import logistic, nearest_centroid
from datafree.evaluation.rows import BEST, baselines, learned, oracles
from datafree.evaluation.table import compare
from datafree.zoo.backbones import Classifier, build, parameter_count
from datafree.zoo.networks import network_card

CPU = torch.device("cpu")
CONFIG = EvaluationConfig(way=3, shots=[1, 2], query=3, episodes=15)
NOTHING = as_tree(AdaptationConfig())

# ---- baselines --------------------------------------------------------------------------------------------------------------------------


def test_every_baseline_is_there(teachers):
    found = {one.name: one for one in baselines(teachers, (3, 32, 32), CONFIG, 0, CPU)}
    singles = [f"{BEST}/{teacher.name}" for teacher in teachers]
    assert list(found) == ["pixels", "random", *singles, "averaged teachers", "all teachers", "teachers' vote"]
    assert {one.kind for one in found.values()} == {"baseline"}
    size = parameter_count(teachers[0].network.backbone)
    for name in ("all teachers", "teachers' vote"):
        assert (found[name].networks, found[name].parameters) == (3, 3 * size)
    assert (found["pixels"].networks, found["pixels"].parameters) == (0, 0)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert found["all teachers"].embedding(images).shape == (4, 3 * teachers[0].network.backbone.feature_size)
    assert torch.allclose(found[singles[1]].embedding(images), teachers[1].features(images), atol=1e-5)


def test_an_average_of_different_architectures_has_no_row(teachers, make_teacher):
    mixed = [*teachers, make_teacher("other", ("a", "b"), 5, architecture="resnet8")]
    found = {one.name: one for one in baselines(mixed, (3, 32, 32), CONFIG, 0, CPU)}
    assert "averaged teachers" not in found
    assert found[f"{BEST}/other"].parameters == parameter_count(mixed[3].network.backbone)


# ---- from disk --------------------------------------------------------------------------------------------------------------------------


def test_learners_and_oracle_are_read_with_what_describes_them(tmp_path):
    config = BackboneConfig("conv4_strided", 8)
    paths = []
    for seed in (0, 1):
        backbone = build(config, 3, 32, seed)
        card = network_card(backbone, config, (3, 32, 32), [0.5] * 3, [0.25] * 3)
        paths.append((tmp_path / f"w{seed}", tmp_path / f"c{seed}"))
        artifacts.write_tensors(paths[-1][0], backbone.state_dict())
        artifacts.write_json(
            paths[-1][1], {**card, "arm": "bell", "seed": seed, "method": "bell", "inversion": "five", "adaptation": NOTHING}
        )
    first, second = learned([weights for weights, _ in paths], [card for _, card in paths], CONFIG, CPU)
    assert (first.name, first.kind, first.seed, second.seed) == ("bell", "arm", 0, 1)
    assert first.parameters == parameter_count(backbone)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    expected = backbone.eval()((images / 255 - 0.5) / 0.25)
    assert torch.allclose(second.embedding(images), expected, atol=1e-5)
    assert not torch.allclose(first.embedding(images), expected, atol=1e-3)

    network = Classifier(backbone, 7)
    artifacts.write_tensors(tmp_path / "w", network.state_dict())
    artifacts.write_json(tmp_path / "c", {**card, "reference": "oracle", "classes": list("abcdefg")})
    (ceiling,) = oracles([tmp_path / "w"], [tmp_path / "c"], CONFIG, CPU)
    assert (ceiling.name, ceiling.kind) == ("real-data oracle", "oracle")
    assert torch.allclose(ceiling.embedding(images), expected, atol=1e-5)


# ---- ways of evaluating a learner -------------------------------------------------------------------------------------------------------


def written(folder, adaptation):
    config = BackboneConfig("conv4_strided", 8)
    backbone = build(config, 3, 32, 0)
    card = network_card(backbone, config, (3, 32, 32), [0.5] * 3, [0.25] * 3)
    artifacts.write_tensors(folder / "w", backbone.state_dict())
    artifacts.write_json(folder / "c", {**card, "arm": "a", "seed": 0, "method": "m", "inversion": "five", "adaptation": adaptation})
    return folder / "w", folder / "c"


BOTH = {"inference": ["inductive", "transductive"], "classifiers": ["nearest_centroid", "logistic"]}


def test_a_feature_extractor_is_evaluated_by_every_classifier_and_inference(tmp_path):
    weights, card = written(tmp_path, NOTHING)
    found = learned([weights], [card], EvaluationConfig(**BOTH), CPU)
    assert [(one.variant, one.classify, one.solve is None) for one in found] == [
        ("", nearest_centroid, True),
        ("logistic", logistic, True),
        ("transductive", nearest_centroid, False),
        ("transductive logistic", logistic, False),
    ]


@pytest.mark.parametrize(("part", "on_features"), [("head", True), ("network", False)])
def test_an_adapting_learner_is_evaluated_by_its_own_steps(tmp_path, image_set, part, on_features):
    weights, card = written(tmp_path, {"part": part, "steps": 3, "learning_rate": 0.05})
    inductive, transductive = learned([weights], [card], EvaluationConfig(**BOTH), CPU)
    assert (inductive.variant, transductive.variant) == ("", "transductive")
    assert (inductive.solve is None) == on_features
    assert transductive.solve is not None
    assert inductive.description.endswith(f"3 gradient steps of 0.05 on the {'head' if part == 'head' else 'whole network'}")
    rows = compare([inductive, transductive], image_set, CONFIG, 0, CPU)
    assert [row["name"] for row in rows] == ["a", "a transductive"]
    assert all(row["shots"]["2"]["mean"] > 0.5 for row in rows)


def test_baselines_are_evaluated_by_every_classifier(teachers):
    found = baselines(teachers, (3, 32, 32), EvaluationConfig(**BOTH), 0, CPU)
    plain = baselines(teachers, (3, 32, 32), CONFIG, 0, CPU)
    assert [(one.name, one.variant) for one in found] == [(one.name, v) for one in plain for v in ("", "logistic")]
    assert all(one.classify is (logistic if one.variant else nearest_centroid) for one in found if one.name != "teachers' vote")


def test_every_teacher_has_one_vote(teachers, image_set):
    """By a plain count over what each teacher's own features say of an episode."""
    *_, voting = baselines(teachers, (3, 32, 32), CONFIG, 0, CPU)
    chosen = torch.stack([image_set.images[image_set.labels == label][:4] for label in range(3)])
    ballots = []
    for teacher in teachers:
        features = teacher.features(chosen.flatten(0, 1)).unflatten(0, (3, 4))
        ballots.append(nearest_centroid(features[:, :2], features[:, 2:].flatten(0, 1)).tolist())
    expected = [max(range(3), key=lambda label: votes.count(label)) for votes in zip(*ballots, strict=True)]
    together = voting.embedding(chosen.flatten(0, 1)).unflatten(0, (3, 4))
    assert voting.classify(together[:, :2], together[:, 2:].flatten(0, 1)).tolist() == expected
