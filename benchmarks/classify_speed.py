"""Images per second of ``datafree classify``: decoding, the network, and both as the command runs them, on one device.

    python benchmarks/classify_speed.py --output build/classify.json
    python benchmarks/classify_speed.py --output build/tiny.json --device cpu --images 20 --repeats 1

The learner has random weights and the images are random: the time does not depend on the values. The files are PNG of 32 pixels.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from recovery_engine import seconds

from datafree import artifacts, devices
from datafree.config import BackboneConfig, as_tree
from datafree.data.decoding import read_images
from datafree.errors import exit_on_user_error
from datafree.nas.networks import build
from datafree.predict import labels, photos
from datafree.predict.classifier import fit
from datafree.predict.network import RepresentationNetwork, TrainedLearner
from datafree.workflow import hardware
from datafree.zoo.backbones import Normalise

SIZE, CLASSES = 32, 5
BACKBONES = {"conv4": 64, "resnet12": 64}


def random_learner(name: str, width: int, device: torch.device) -> TrainedLearner:
    config = BackboneConfig(name, width)
    normalise = Normalise([0.5] * 3, [0.25] * 3, [3, SIZE, SIZE])
    network = RepresentationNetwork(build(config, 3, SIZE, 0), normalise, None, mirrored=True).to(device)
    return TrainedLearner(network, torch.empty(0, network.backbone.feature_size), {"backbone": as_tree(config), "input": [3, SIZE, SIZE]})


def write_images(folder: Path, count: int) -> list[Path]:
    rng = torch.Generator().manual_seed(0)
    paths = [folder / f"{number:06d}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(torch.randint(0, 256, (SIZE, SIZE, 3), dtype=torch.uint8, generator=rng).numpy()).save(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2, help="that decode images")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name, devices.use(given.device) as device:
        paths = write_images(Path(name), given.images)
        pixels = read_images(paths, SIZE, "reading images", given.threads)
        rows.append({"what": "decoding", "seconds": times(lambda: read_images(paths, SIZE, "", given.threads), given.repeats, device)})
        for backbone, width in BACKBONES.items():
            learner = random_learner(backbone, width, device)
            support = learner.represent(pixels[: 2 * CLASSES])
            classifier = fit(support, torch.arange(2 * CLASSES) % CLASSES, CLASSES, learner.negatives)

            def whole(learner: TrainedLearner = learner, classifier=classifier) -> None:
                for names, batch, _ in photos.batches(photos.find([name], sys.stdin.buffer), SIZE, given.threads):
                    labels.label(classifier, list(map(str, range(CLASSES))), names, learner.represent(batch))

            def network(learner: TrainedLearner = learner) -> None:
                learner.represent(pixels)

            for what, work in (("network", network), ("files to labels", whole)):
                rows.append({"what": f"{what}, {backbone} of width {width}", "seconds": times(work, given.repeats, device)})
    for row in rows:
        row["images_per_second"] = [given.images / value for value in row["seconds"]]
        print(f"{row['what']}: {', '.join(f'{value:.0f}' for value in row['images_per_second'])} images per second")
    artifacts.write_json(
        given.output, {"images": given.images, "device": str(device), "processor": hardware.instruction_set(), "rows": rows}
    )


def times(work: Callable[[], Any], repeats: int, device: torch.device) -> list[float]:
    """Seconds of each repeat, after a first one."""
    return [seconds(work, device) for _ in range(repeats + 1)][1:]


if __name__ == "__main__":
    with exit_on_user_error("classify_speed"):
        main()
