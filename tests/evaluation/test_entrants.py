import torch

from datafree import artifacts
from datafree.config import AdaptationConfig, BackboneConfig, EvaluationConfig, as_tree
from datafree.evaluation.entrants import BEST, baselines, learned, oracle
from datafree.zoo.backbones import Classifier, build, parameter_count
from datafree.zoo.networks import network_card

CPU = torch.device("cpu")
CONFIG = EvaluationConfig(way=3, shots=[1, 2], query=3, episodes=15)
NOTHING = as_tree(AdaptationConfig())

# ---- baselines --------------------------------------------------------------------------------------------------------------------------


def test_every_baseline_is_there(teachers):
    found = {one.name: one for one in baselines(teachers, (3, 32, 32), CONFIG, 0, CPU)}
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
    artifacts.write_json(tmp_path / "c", {**card, "classes": list("abcdefg")})
    (ceiling,) = oracle(tmp_path / "w", tmp_path / "c", CONFIG, CPU)
    assert ceiling.kind == "oracle"
    assert torch.allclose(ceiling.embedding(images), expected, atol=1e-5)
