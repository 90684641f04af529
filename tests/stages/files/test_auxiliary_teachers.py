import dataclasses
from pathlib import Path

import torch

from datafree import artifacts
from datafree.stages.files import teachers as stage_files
from datafree.stages.files.teachers import auxiliary_teachers
from datafree.zoo.backbones import batch_norm_layers
from datafree.zoo.manifest import Architecture, Entry
from datafree.zoo.plausibility import has_trained_statistics
from datafree.zoo.teachers import empty_network, freeze
from tests.index_files import write_index


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


def test_auxiliary_teachers_are_the_others_with_trained_statistics_and_read_when_used(make_teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = (trained(make_teacher(name, ("a", "b", "c"), seed)) for seed, name in enumerate(("first", "second")))
    untrained = make_teacher("untrained", ("a", "b", "c"), 2)  # running statistics of images, but the scales of a new network
    without = untrained_as("torchvision/vgg11", "without BatchNorm")(first)
    assert [has_trained_statistics(teacher.network) for teacher in (first, second, untrained, without)] == [True, True, False, False]
    zoo = [first, untrained, second, without]
    for teacher in zoo:
        statistics = has_trained_statistics(teacher.network)
        artifacts.write_json(f"{teacher.name}/card.json", {"name": teacher.name, "trained_statistics": statistics})
        artifacts.write_text(f"{teacher.name}/weights.safetensors", teacher.name)
    files = {teacher.name: [f"{teacher.name}/card.json", f"{teacher.name}/weights.safetensors"] for teacher in zoo}
    index = Path(write_index("index.json", files))
    read = []
    monkeypatch.setattr(stage_files, "read_teacher", lambda weights, card: read.append(card.parent.name) or first)
    auxiliary = {name: auxiliary_teachers(index, name, torch.device("cpu")) for name in files}
    assert {name: len(others) for name, others in auxiliary.items()} == {"first": 1, "second": 1, "untrained": 2, "without BatchNorm": 2}
    assert read == []
    for name in files:
        assert auxiliary[name][-1].network is first.network
    assert read == ["second", "first"]  # once for all jobs of the process
