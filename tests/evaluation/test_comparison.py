import pytest
import torch

from datafree import artifacts
from datafree.config import BackboneConfig, EvaluationConfig
from datafree.evaluation.baselines import average_weights, backbone_features, batch_statistics_features, pixels
from datafree.evaluation.comparison import BEST, Entrant, baselines, compare, learned, oracle
from datafree.evaluation.intervals import mean_interval
from datafree.zoo.backbones import Classifier, Normalise, build, parameter_count
from datafree.zoo.networks import network_card

CPU = torch.device("cpu")
CONFIG = EvaluationConfig(way=3, shots=[1, 2], query=3, episodes=15)


def entrant(name, embedding, kind="baseline", seed=0, parameters=5) -> Entrant:
    return Entrant(name, kind, f"about {name}", embedding, 1, parameters, seed)


def noisy(level):
    """Features that are the pixels under noise of so many grey levels."""

    def embedding(images):
        draw = torch.Generator().manual_seed(level)
        return images.flatten(1).float() + level * torch.randn(images.flatten(1).shape, generator=draw)

    return embedding


# ---- baselines --------------------------------------------------------------------------------------------------------------------------


def test_one_teachers_average_is_itself(teachers):
    average = average_weights(teachers[:1])
    for first, second in zip(average.network.state_dict().values(), teachers[0].network.state_dict().values(), strict=True):
        assert torch.equal(first, second)


def test_the_average_is_of_every_weight_and_leaves_the_teachers_alone(teachers, state_of, assert_same_state):
    before = [state_of(teacher.network) for teacher in teachers]
    average = average_weights(teachers).network.backbone.state_dict()
    states = [teacher.network.backbone.state_dict() for teacher in teachers]
    for name, value in average.items():
        if value.is_floating_point():
            assert torch.allclose(value, (states[0][name] + states[1][name] + states[2][name]) / 3, atol=1e-6)
    for teacher, state in zip(teachers, before, strict=True):
        assert_same_state(state_of(teacher.network), state)


@pytest.mark.parametrize("other", ["resnet8", "conv4_strided"])
def test_different_architectures_have_no_average(teachers, make_teacher, other):
    assert average_weights([teachers[0], make_teacher("x", ("a", "b"), 5, architecture=other)]) is None
    assert average_weights([teachers[0], make_teacher("x", ("a", "b"), 5, width=4)]) is None


def test_features_are_those_of_the_evaluated_network(teachers):
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    teacher = teachers[0]
    features = backbone_features(teacher.network.backbone, teacher.normalise, CPU)
    assert torch.allclose(features(images), teacher.features(images), atol=1e-5)
    assert torch.equal(pixels(images), images.flatten(1) / 255)


def test_an_untrained_networks_features_use_the_statistics_of_the_batch():
    backbone = build(BackboneConfig("conv4", 8), 3, 32, 0)
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    features = batch_statistics_features(backbone, Normalise([0.5] * 3, [0.25] * 3), CPU)
    with torch.no_grad():
        first = features(images)
        assert not torch.allclose(first[:3], features(images[:3]), atol=1e-3)
        assert torch.equal(features(images), first)


def test_every_baseline_is_there(teachers):
    found = {one.name: one for one in baselines(teachers, (3, 32, 32), 0, CPU)}
    singles = [f"{BEST}/{teacher.name}" for teacher in teachers]
    assert list(found) == ["pixels", "random", *singles, "all teachers", "averaged teachers"]
    assert {one.kind for one in found.values()} == {"baseline"}
    size = parameter_count(teachers[0].network.backbone)
    assert (found["all teachers"].networks, found["all teachers"].parameters) == (3, 3 * size)
    assert (found["pixels"].networks, found["pixels"].parameters) == (0, 0)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert found["all teachers"].embedding(images).shape == (4, 3 * teachers[0].network.backbone.feature_size)
    assert torch.allclose(found[singles[1]].embedding(images), teachers[1].features(images), atol=1e-5)


def test_an_average_of_different_architectures_has_no_row(teachers, make_teacher):
    mixed = [*teachers, make_teacher("other", ("a", "b"), 5, architecture="resnet8")]
    found = {one.name: one for one in baselines(mixed, (3, 32, 32), 0, CPU)}
    assert "averaged teachers" not in found
    assert found[f"{BEST}/other"].parameters == parameter_count(mixed[3].network.backbone)


# ---- the table --------------------------------------------------------------------------------------------------------------------------


def test_a_row_per_name_in_the_order_of_the_entrants(image_set):
    entrants = [entrant("arm", noisy(5), "arm", seed) for seed in (0, 1, 2)] + [
        entrant("pixels", pixels),
        entrant("oracle", pixels, "oracle"),
    ]
    rows = compare(entrants, image_set, CONFIG, 0, CPU)
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
    entrants = [entrant("arm", noisy(400), "arm", 3), entrant("arm", noisy(900), "arm", 4)]
    shots = compare(entrants, image_set, CONFIG, 0, CPU)[0]["shots"]["1"]
    alone = [compare([one], image_set, CONFIG, 0, CPU)[0]["shots"]["1"] for one in entrants]
    assert [entry["seed"] for entry in shots["per_seed"]] == [3, 4]
    assert [entry["mean"] for entry in shots["per_seed"]] == [one["mean"] for one in alone]
    assert shots["mean"] == pytest.approx((alone[0]["mean"] + alone[1]["mean"]) / 2)
    assert alone[0]["mean"] != alone[1]["mean"]


def test_the_best_teacher_is_chosen_for_each_shot(image_set, monkeypatch):
    # One teacher is better at one shot, the other at two.
    scores = {"one": {1: 0.8, 2: 0.5}, "two": {1: 0.6, 2: 0.9}}

    def pretend(features, labels, *, way, shot, query, episodes, seed):
        return [scores["one" if features[0, 0] == 1 else "two"][shot]] * episodes

    monkeypatch.setattr("datafree.evaluation.comparison.episode_accuracies", pretend)
    entrants = [entrant(f"{BEST}/one", lambda x: torch.ones(len(x), 1)), entrant(f"{BEST}/two", lambda x: torch.zeros(len(x), 1))]
    (row,) = compare(entrants, image_set, CONFIG, 0, CPU)
    assert row["name"] == BEST
    assert row["shots"]["1"]["mean"] == pytest.approx(0.8)
    assert row["shots"]["2"]["mean"] == pytest.approx(0.9)
    assert row["shots"]["1"]["n"] == 15  # of one teacher, not of all


def test_better_features_score_better_and_the_result_repeats(image_set):
    rows = compare([entrant("clear", pixels), entrant("noisy", noisy(400))], image_set, CONFIG, 0, CPU)
    assert rows == compare([entrant("clear", pixels), entrant("noisy", noisy(400))], image_set, CONFIG, 0, CPU)
    assert rows[0]["shots"]["1"]["mean"] > rows[1]["shots"]["1"]["mean"] + 0.2
    assert rows[0]["shots"]["1"]["mean"] == pytest.approx(mean_interval([rows[0]["shots"]["1"]["mean"]])["mean"])


# ---- from disk --------------------------------------------------------------------------------------------------------------------------


def test_learners_and_oracle_are_read_with_what_describes_them(tmp_path):
    config = BackboneConfig("conv4_strided", 8)
    paths = []
    for seed in (0, 1):
        backbone = build(config, 3, 32, seed)
        card = network_card(backbone, config, (3, 32, 32), [0.5] * 3, [0.25] * 3)
        paths.append((tmp_path / f"w{seed}", tmp_path / f"c{seed}"))
        artifacts.write_tensors(paths[-1][0], backbone.state_dict())
        artifacts.write_json(paths[-1][1], {**card, "arm": "bell", "seed": seed, "method": "bell", "inversion": "five"})
    first, second = learned([weights for weights, _ in paths], [card for _, card in paths], CPU)
    assert (first.name, first.kind, first.seed, second.seed) == ("bell", "arm", 0, 1)
    assert first.parameters == parameter_count(backbone)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    expected = backbone.eval()((images / 255 - 0.5) / 0.25)
    assert torch.allclose(second.embedding(images), expected, atol=1e-5)
    assert not torch.allclose(first.embedding(images), expected, atol=1e-3)

    network = Classifier(backbone, 7)
    artifacts.write_tensors(tmp_path / "w", network.state_dict())
    artifacts.write_json(tmp_path / "c", {**card, "classes": list("abcdefg")})
    ceiling = oracle(tmp_path / "w", tmp_path / "c", CPU)
    assert ceiling.kind == "oracle"
    assert torch.allclose(ceiling.embedding(images), expected, atol=1e-5)
