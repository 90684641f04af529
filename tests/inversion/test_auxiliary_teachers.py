import dataclasses

import torch
from datafree.inversion.auxiliary_teachers import auxiliary_teachers_of, has_trained_statistics

from datafree.zoo.backbones import batch_norm_layers
from datafree.zoo.manifest import Architecture, Entry
from datafree.zoo.teachers import empty_network, freeze


def trained(teacher):
    """The same teacher with BatchNorm scales as after training."""
    with torch.no_grad():
        for layer in batch_norm_layers(teacher.network):
            layer.weight.mul_(0.9)
    return teacher


def untrained_as(architecture, name):
    def make(teacher):
        entry = Entry(name=name, architecture=Architecture(architecture), input=[3, 32, 32])
        return dataclasses.replace(teacher, name=name, network=freeze(empty_network(entry, 3)))

    return make


def test_auxiliary_teachers_are_the_others_with_trained_statistics(make_teacher):
    first, second = (trained(make_teacher(name, ("a", "b", "c"), seed)) for seed, name in enumerate(("first", "second")))
    untrained = make_teacher("untrained", ("a", "b", "c"), 2)  # running statistics of images, but the scales of a new network
    without = untrained_as("torchvision/vgg11", "without BatchNorm")(first)
    assert [has_trained_statistics(teacher) for teacher in (first, second, untrained, without)] == [True, True, False, False]
    zoo = [first, untrained, second, without]
    assert auxiliary_teachers_of(first, zoo) == [second]
    assert auxiliary_teachers_of(without, zoo) == [first, second]
