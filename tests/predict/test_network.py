import pytest
import torch
from torch import nn

from datafree.evaluation.baselines import network_embedding
from datafree.evaluation.readouts import Reader, heads_of
from datafree.evaluation.representations import ONE_HEAD
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
    network = RepresentationNetwork(teacher.network.backbone, teacher.normalise, teacher.network.head, ONE_HEAD, mirrored=False)
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


def test_a_copy_shares_no_weights(learner):
    copied = learner.network.copied()
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert any(parameter.any() for parameter in learner.network.parameters())
