"""Stage ``reference``: networks trained on the teachers' real images, which the methods under study never see.

``oracle`` is the ceiling of the few-shot table; ``judge``, of another architecture, rates recovered images.
"""

from __future__ import annotations

from datafree import artifacts, devices
from datafree.config import BackboneConfig
from datafree.data.images import read_image_set
from datafree.provenance import Job
from datafree.zoo.backbones import Classifier, Normalise, build
from datafree.zoo.networks import network_card
from datafree.zoo.teachers import common_normalisation
from datafree.zoo.training import accuracy, hold_out, logits_of, train_classifier

BACKBONES = {"oracle": BackboneConfig("conv4_strided", 64), "judge": BackboneConfig("resnet8", 16)}


def run(job: Job) -> None:
    """Inputs: ``train`` (image set), ``cards``. Outputs: ``network`` (backbone and head), ``card``, ``history``, ``metrics``."""
    cards = [artifacts.read_json(path) for path in job.input_list("cards")]
    data = read_image_set(job.input("train"))
    wanted = {name for card in cards for name in card["classes"]}
    own = [label for label, name in enumerate(data.classes) if name in wanted]
    share = job.config["zoo.training"]["held_out"]
    train, held = (part.of_classes(own) for part in hold_out(data, share, job.config["seed"]))
    seed = devices.derive_seed(job.config["seed"], *job.wildcards.values())
    mean, std = common_normalisation(cards)
    config, shape = BACKBONES[job.wildcards["reference"]], data.images.shape[1:]
    backbone = build(config, shape[0], shape[1], seed)
    with devices.seeded_initialisation(seed):
        network = Classifier(backbone, len(train.classes))
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        normalise = Normalise(mean, std)
        history = train_classifier(
            network, normalise, train, steps=job.config["evaluation.oracle_steps"], batch_size=128,
            learning_rate=0.004, seed=seed, device=device, label=job.wildcards["reference"],
        )  # fmt: skip
        right = accuracy(logits_of(network, normalise, held.images, device), held.labels)
    card = network_card(backbone, config, shape, mean, std)
    artifacts.write_tensors(job.output("network"), network.state_dict())
    artifacts.write_json(job.output("card"), {**card, "classes": list(train.classes), "accuracy": {"mean": right, "n": len(held.labels)}})
    artifacts.write_history(job.output("history"), history)
    artifacts.write_json(job.output("metrics"), {"accuracy": right, "classes": len(train.classes)})
