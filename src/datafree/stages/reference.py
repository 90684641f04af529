"""Stage ``reference``: train oracles and the independent classifier (judge) on real images of the teachers' classes.

The methods under study do not use these images. Upper bounds in the few-shot table: ``oracle``, a classifier; ``searched``, a classifier
with the architecture of a search result; ``protonet`` and ``maml``, trained on episodes. ``judge``, a classifier of another
architecture, measures recovered images.
"""

from __future__ import annotations

from typing import Any

import torch

from datafree import artifacts, devices
from datafree.config import ARM_TYPES, ClassifierReference, LearnerReference, TasksConfig, as_tree, typed
from datafree.data.images import ImageSet
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.distillation.heads import TeacherHeads
from datafree.meta import ARMS
from datafree.meta.learner import Learner
from datafree.nas.networks import build
from datafree.stages.files.cards import read_cards
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

FOLDER = "artifacts/evaluation/{reference}"
READS = ("seed", "references.{reference}", "architectures.reference.{reference}")
# Network to write, training curve, further entries of its card, metrics.
Trained = tuple[torch.nn.Module, list[dict[str, float]], dict[str, Any], dict[str, float]]


def run(job: Job) -> None:
    """Inputs: ``train`` (image set); ``zoo``, the index of the teachers; ``architecture`` for ``searched``.

    Outputs: ``network`` (backbone and head of a classifier; backbone of ``protonet`` and ``maml``), ``card``, ``history``, ``metrics``.
    """
    name = job.wildcards["reference"]
    tree = job.config[f"references.{name}"]
    settings = typed(LearnerReference if "arm" in tree else ClassifierReference, tree)
    cards = read_cards(job.input("zoo"))
    data = read_image_set(job.input("train"))
    taught = {class_name for card in cards for class_name in card["classes"]}
    labels = [label for label, class_name in enumerate(data.classes) if class_name in taught]
    train, held = (part.of_classes(labels) for part in hold_out(data, settings.held_out, job.config["seed"]))
    seed = devices.derive_seed(job.config["seed"], *job.wildcards.values())
    mean, std = common_normalisation(cards)
    normalise, shape = Normalise(mean, std), data.images.shape[1:]
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        if isinstance(settings, LearnerReference):
            arm = typed(ARM_TYPES[settings.arm["method"]], settings.arm)
            config, backbone = arm.backbone, build(arm.backbone, shape[0], shape[1], seed)
            network, history, entries, metrics = _learner(job, backbone, normalise, arm, settings.tasks, train, seed, device)
        else:
            config = settings.backbone or searched_backbone(job.input("architecture"))
            backbone = build(config, shape[0], shape[1], seed)
            network, history, entries, metrics = _classifier(job, backbone, normalise, settings, train, held, seed, device)
    card = network_card(backbone, config, shape, mean, std)
    artifacts.write_tensors(job.output("network"), network.state_dict())
    artifacts.write_json(
        job.output("card"), {**card, "reference": name, "classes": list(train.classes), "computed_on": job.computed_on, **entries}
    )
    artifacts.write_history(job.output("history"), history)
    artifacts.write_json(job.output("metrics"), {**metrics, "classes": len(train.classes)})


def _classifier(
    job: Job, backbone: Backbone, normalise: Normalise, settings: ClassifierReference, train: ImageSet, held: ImageSet, seed: int,
    device: torch.device,
) -> Trained:  # fmt: skip
    with devices.seeded_initialisation(seed):
        network = Classifier(backbone, len(train.classes))
    history = train_classifier(
        network, normalise, train, steps=settings.steps, batch_size=settings.batch_size,
        learning_rate=settings.learning_rate, seed=seed, device=device, label=job.wildcards["reference"],
    )  # fmt: skip
    held_out_accuracy = accuracy(logits_of(network, normalise, held.images, device), held.labels)
    return network, history, {"accuracy": {"mean": held_out_accuracy, "n": len(held.labels)}}, {"accuracy": held_out_accuracy}


def _learner(
    job: Job, backbone: Backbone, normalise: Normalise, arm: Any, tasks: TasksConfig, train: ImageSet, seed: int, device: torch.device
) -> Trained:
    """Train an arm without teacher predictions on one pool, the real images of all classes."""
    pool = real_pool(train)
    episodes = sample_episodes([pool], [1.0], tasks, job.config["seed"])
    with devices.seeded_initialisation(seed):
        heads = TeacherHeads(backbone.feature_size, [len(pool.classes)])
    learner = Learner(backbone, heads, normalise).to(device)
    checkpoint = checkpoint_of(job)
    ensemble = TeacherEnsemble([], [pool], normalise, device, torch.ones(1), devices.together(device))
    history = ARMS[arm.method](learner, ensemble, episodes, arm, seed, checkpoint)
    checkpoint.clear()
    metrics = {f"final_{name}": value for name, value in history[-1].items() if name != "step"}
    return backbone, history, {"method": arm.method, "adaptation": as_tree(arm.adaptation)}, metrics
