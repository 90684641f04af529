"""Stage ``reference``: train oracles and the independent classifier (judge) on real images of the teachers' classes.

The methods under study do not use these images. Upper bounds in the few-shot table: ``oracle``, a classifier; ``searched``, a classifier
with the architecture of the first search; ``protonet`` and ``maml``, trained on episodes. ``judge``, a classifier of another
architecture, measures recovered images.
"""

from __future__ import annotations

from typing import Any

import torch

from datafree import artifacts, devices
from datafree.config import ARM_TYPES, AdaptationConfig, BackboneConfig, TasksConfig, as_tree, typed
from datafree.data.images import ImageSet
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.distillation.heads import TeacherHeads
from datafree.meta import ARMS
from datafree.meta.learner import Learner
from datafree.nas.networks import build
from datafree.stages.files.image_sets import read_image_set
from datafree.stages.files.networks import searched_backbone
from datafree.tasks.episodes import sample_episodes
from datafree.tasks.pools import real_pool
from datafree.workflow.job_checkpoints import checkpoint_of
from datafree.workflow.provenance import Job
from datafree.zoo.backbones import Backbone, Classifier, Normalise
from datafree.zoo.networks import network_card
from datafree.zoo.teachers import common_normalisation
from datafree.zoo.training import accuracy, hold_out, logits_of, train_classifier

JUDGE = BackboneConfig("resnet8", 16)
# Network to write, training curve, further entries of its card, metrics.
Trained = tuple[torch.nn.Module, list[dict[str, float]], dict[str, Any], dict[str, float]]


def run(job: Job) -> None:
    """Inputs: ``train`` (image set); ``cards``, one per teacher; ``architecture`` for ``searched``.

    Outputs: ``network`` (backbone and head of a classifier; backbone of ``protonet`` and ``maml``), ``card``, ``history``, ``metrics``.
    """
    name = job.wildcards["reference"]
    cards = [artifacts.read_json(path) for path in job.input_list("cards")]
    data = read_image_set(job.input("train"))
    taught = {class_name for card in cards for class_name in card["classes"]}
    labels = [label for label, class_name in enumerate(data.classes) if class_name in taught]
    share = job.config["zoo.training"]["held_out"]
    train, held = (part.of_classes(labels) for part in hold_out(data, share, job.config["seed"]))
    seed = devices.derive_seed(job.config["seed"], *job.wildcards.values())
    mean, std = common_normalisation(cards)
    config = _backbone(job, name)
    shape = data.images.shape[1:]
    backbone, normalise = build(config, shape[0], shape[1], seed), Normalise(mean, std)
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        if name in ARMS:
            network, history, entries, metrics = _learner(job, backbone, normalise, train, seed, device)
        else:
            network, history, entries, metrics = _classifier(job, backbone, normalise, train, held, seed, device)
    card = network_card(backbone, config, shape, mean, std)
    artifacts.write_tensors(job.output("network"), network.state_dict())
    artifacts.write_json(
        job.output("card"), {**card, "reference": name, "classes": list(train.classes), "computed_on": job.computed_on, **entries}
    )
    artifacts.write_history(job.output("history"), history)
    artifacts.write_json(job.output("metrics"), {**metrics, "classes": len(train.classes)})


def _backbone(job: Job, name: str) -> BackboneConfig:
    if name == "judge":
        return JUDGE
    if name == "searched":
        return searched_backbone(job.input("architecture"))
    return typed(BackboneConfig, job.config["evaluation.oracle_backbone"])


def _classifier(
    job: Job, backbone: Backbone, normalise: Normalise, train: ImageSet, held: ImageSet, seed: int, device: torch.device
) -> Trained:
    with devices.seeded_initialisation(seed):
        network = Classifier(backbone, len(train.classes))
    history = train_classifier(
        network, normalise, train, steps=job.config["evaluation.oracle_steps"], batch_size=128,
        learning_rate=0.004, seed=seed, device=device, label=job.wildcards["reference"],
    )  # fmt: skip
    held_out_accuracy = accuracy(logits_of(network, normalise, held.images, device), held.labels)
    return network, history, {"accuracy": {"mean": held_out_accuracy, "n": len(held.labels)}}, {"accuracy": held_out_accuracy}


def _learner(job: Job, backbone: Backbone, normalise: Normalise, train: ImageSet, seed: int, device: torch.device) -> Trained:
    """Train an arm without teacher predictions on one pool, the real images of all classes."""
    arm = ARM_TYPES[job.wildcards["reference"]](steps=job.config["evaluation.oracle_steps"])
    pool = real_pool(train)
    episodes = sample_episodes([pool], [1.0], typed(TasksConfig, job.config["tasks"]), job.config["seed"])
    with devices.seeded_initialisation(seed):
        heads = TeacherHeads(backbone.feature_size, [len(pool.classes)])
    learner = Learner(backbone, heads, normalise).to(device)
    checkpoint = checkpoint_of(job)
    history = ARMS[arm.method](learner, TeacherEnsemble([], [pool], normalise, device, torch.ones(1)), episodes, arm, seed, checkpoint)
    checkpoint.clear()
    metrics = {f"final_{name}": value for name, value in history[-1].items() if name != "step"}
    return backbone, history, {"method": arm.method, "adaptation": as_tree(getattr(arm, "adaptation", AdaptationConfig()))}, metrics
