"""Fixtures for the benchmarks: the folder of a finished run; published classifiers and images."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from datafree import artifacts
from datafree.config import BackboneConfig
from datafree.data.images import ImageSet
from datafree.stages.files.image_sets import write_image_set
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


@pytest.fixture(scope="session")
def publish(make_images) -> Callable:
    """Puts small untrained classifiers of the same classes, their manifest and ``per_class`` images of each class into a folder."""

    def put(root: Path, classes: list[str], count: int, per_class: int) -> None:
        entries = []
        for number in range(count):
            network = Classifier(build(BackboneConfig("conv4", 8), 3, 32, seed=number), len(classes))
            artifacts.write_tensors(root / "files" / f"{number}.safetensors", network.state_dict())
            entries.append({"name": f"net-{number}", "file": f"elsewhere/{number}.safetensors"})
        defaults = {"architecture": {"name": "conv4", "width": 8}, "classes": classes}
        (root / "zoo.yaml").write_text(yaml.safe_dump({"defaults": defaults, "teachers": entries}))
        images, labels = make_images(len(classes), per_class, 32, seed=1)
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            folder = root / "images" / "test" / classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")

    return put
