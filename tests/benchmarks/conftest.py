"""What the benchmarks take: the folder of a finished run."""

import pytest

from datafree import artifacts
from datafree.config import BackboneConfig
from datafree.data.images import ImageSet, write_image_set
from datafree.zoo.backbones import Classifier, build
from datafree.zoo.networks import network_card


@pytest.fixture(scope="session")
def run(tmp_path_factory, teachers, make_images):
    """Three untrained teachers, noise for images, an untrained judge and oracle."""
    root = tmp_path_factory.mktemp("run") / "artifacts"
    for teacher in teachers:
        folder = root / "zoo" / teacher.name
        artifacts.write_tensors(folder / "weights.safetensors", teacher.network.state_dict())
        card = {"name": teacher.name, "architecture": {"name": "conv4", "width": 8}, "input": list(teacher.input)}
        mean = teacher.normalise.mean.flatten().tolist()
        card |= {"mean": mean, "std": [value / 2 for value in mean], "classes": list(teacher.classes)}
        artifacts.write_json(folder / "card.json", card)
    names = tuple(sorted({name for teacher in teachers for name in teacher.classes}))
    for split, classes in (("train", names), ("validation", tuple(f"new-{number}" for number in range(4)))):
        images, labels = make_images(len(classes), 20, 32, seed=len(classes))
        write_image_set(root / "data" / f"{split}.safetensors", ImageSet(images, labels, classes))
    for seed, reference in enumerate(("judge", "oracle")):
        config = BackboneConfig("conv4_strided", 8)
        network = Classifier(build(config, 3, 32, seed), len(names))
        folder = root / "evaluation" / reference
        artifacts.write_tensors(folder / "network.safetensors", network.state_dict())
        card = network_card(network.backbone, config, (3, 32, 32), [0.5] * 3, [0.25] * 3)
        artifacts.write_json(folder / "card.json", {**card, "classes": list(names)})
    return root.parent
