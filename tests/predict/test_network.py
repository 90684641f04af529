import pytest
import torch
from torch import nn

from datafree.evaluation.baselines import network_embedding
from datafree.evaluation.readouts import Reader, heads_of
from datafree.evaluation.representations import EQUAL, weights_for
from datafree.predict.network import RepresentationNetwork

IMAGES = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def as_evaluated(network, images):
    """The representation that the few-shot table is computed from."""
    heads = None if network.heads is None else heads_of(network.heads)
    reader = Reader.of(["joined"], heads, network.weights)
    embedding = network_embedding(network.backbone, network.normalise, reader, torch.device("cpu"), mirrored=network.mirrored)
    with torch.no_grad():
        (values,) = embedding(images).values()
    return values


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("heads", [{"heads": False}, {"heads": True}, {"shared": True}], ids=str)
def test_representations_are_those_of_the_evaluation(variants, heads, mirrored):
    network = variants(**heads, mirrored=mirrored).network
    torch.testing.assert_close(network(IMAGES), as_evaluated(network, IMAGES))


def test_representations_of_a_teacher_are_those_of_the_evaluation(teachers):
    teacher = teachers[1]
    network = RepresentationNetwork(teacher.network.backbone, teacher.normalise, teacher.network.head, EQUAL, mirrored=False)
    torch.testing.assert_close(network(IMAGES), as_evaluated(network, IMAGES))
    assert isinstance(network.heads, nn.Linear)


def test_the_network_computes_in_evaluation_mode_without_gradients(learner):
    assert not any(module.training for module in learner.network.modules())
    assert not any(parameter.requires_grad for parameter in learner.network.parameters())
    first = learner.network(IMAGES)
    assert torch.equal(first[:2], learner.network(IMAGES)[:2])
    assert first.dtype == torch.float32


def test_batches_do_not_change_representations(learner):
    torch.testing.assert_close(learner.represent(IMAGES, batch_size=2), learner.represent(IMAGES))


def test_networks_side_by_side_are_concatenated_at_unit_length_with_their_weights(group):
    parts = [network(IMAGES) for network in group.members]
    features = [network.backbone.feature_size for network in group.members]
    expected = []
    for part, size in zip(parts, features, strict=True):
        unit = part / part.norm(dim=1, keepdim=True)
        expected.append(torch.cat([unit[:, :size] * weights_for(18).features / weights_for(9).features, unit[:, size:]], dim=1))
    torch.testing.assert_close(group.network(IMAGES), torch.cat(expected, dim=1))
