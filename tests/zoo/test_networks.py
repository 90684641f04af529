import pytest
import torch

from datafree import artifacts
from datafree.config import BackboneConfig
from datafree.errors import UserError
from datafree.stages.files.networks import read_backbone, read_classifier
from datafree.zoo.backbones import Classifier, build, parameter_count
from datafree.zoo.networks import multiply_adds, network_card

MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]


@pytest.fixture
def written(tmp_path):
    config = BackboneConfig("resnet8", 8)
    network = Classifier(build(config, 3, 32, 5), 4)
    card = network_card(network.backbone, config, (3, 32, 32), MEAN, STD)
    artifacts.write_json(tmp_path / "card.json", {**card, "classes": list("abcd")})
    artifacts.write_tensors(tmp_path / "backbone", network.backbone.state_dict())
    artifacts.write_tensors(tmp_path / "network", network.state_dict())
    return tmp_path, network.eval()


def test_a_network_is_read_with_its_normalisation(written):
    folder, network = written
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    backbone, normalise = read_backbone(folder / "backbone", folder / "card.json")
    expected = network.backbone((images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))
    assert torch.allclose(backbone.eval()(normalise(images)), expected, atol=1e-5)
    classifier, normalise = read_classifier(folder / "network", folder / "card.json")
    assert not classifier.training
    assert torch.allclose(classifier(normalise(images)), network.head(expected), atol=1e-5)


def test_the_card_holds_the_size(written):
    folder, network = written
    card = artifacts.read_json(folder / "card.json")
    assert card["parameters"] == parameter_count(network.backbone)
    assert card["macs"] == multiply_adds(network.backbone, (3, 32, 32))


def test_weights_that_do_not_fit_the_card_are_refused(written):
    folder, _ = written
    with pytest.raises(UserError, match="network: 2 unexpected tensors|network: .* tensors missing"):
        read_backbone(folder / "network", folder / "card.json")
    with pytest.raises(UserError, match="backbone: .* tensors missing"):
        read_classifier(folder / "backbone", folder / "card.json")


def test_multiply_adds_are_counted_without_changing_the_network():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.BatchNorm2d(5), torch.nn.Flatten(), torch.nn.Linear(320, 7))
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert multiply_adds(network, (3, 8, 8)) == 5 * 64 * 27 + 320 * 7
    assert [module.training for module in network] == [True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
