"""Stage ``learner``: train the meta-learner of one arm with one seed."""

from __future__ import annotations

import dataclasses
from typing import Any

from datafree import artifacts, devices
from datafree.config import ARM_TYPES, as_tree, typed
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.distillation.heads import TeacherHeads
from datafree.evaluation.representations import EQUAL, join_weights
from datafree.meta import ARMS, shares_batches, trains_heads
from datafree.meta.adaptation import describe
from datafree.meta.learner import Learner, outputs_of_pools
from datafree.meta.start import best_start, learner_from_teacher
from datafree.nas.networks import build
from datafree.stages.files.cards import read_cards
from datafree.stages.files.ensembles import read_ensemble
from datafree.stages.files.learners import write_learner
from datafree.stages.files.networks import searched_backbone
from datafree.stages.files.tasks import read_episodes
from datafree.workflow.job_checkpoints import checkpoint_of
from datafree.workflow.provenance import Job
from datafree.zoo.networks import network_card
from datafree.zoo.teachers import architecture, common_normalisation

FOLDER = "artifacts/meta/{arm}/seed{seed}"
READS = ("seed", "meta.arms.{arm}", "architectures.learner.{arm}")


def run(job: Job) -> None:
    """Inputs: ``zoo`` and ``pools``, the indexes of the teachers and of their pools; ``episodes``; ``reliability``; ``reinforced`` if
    the arm learns from stored views; ``architecture`` if it is searched.

    Outputs: ``learner`` (backbone and heads, see ``write_learner``), ``card``, ``history``, ``metrics``.
    """
    chosen = job.config[f"meta.arms.{job.wildcards['arm']}"]
    arm = typed(ARM_TYPES[chosen["method"]], chosen)
    seed = devices.derive_seed(job.config["seed"], "learner", int(job.wildcards["seed"]))
    batch_seed = devices.derive_seed(job.config["seed"], "learner", "batches") if shares_batches(arm) else seed
    tasks, checkpoint = read_episodes(job.input("episodes")), checkpoint_of(job)
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        ensemble = read_ensemble(job, device)
        classes = ensemble.used_classes
        if getattr(arm, "start", None):
            learner, card = _copy_of_teacher(job, arm.start, ensemble, classes, seed)
        else:
            learner, card = _new_learner(job, arm, ensemble, classes, seed)
        ensemble = dataclasses.replace(ensemble, normalise=learner.to(device).normalise)
        history = ARMS[arm.method](learner, ensemble, tasks, arm, batch_seed, checkpoint)
        trained = trains_heads(arm)
        read_weights = join_weights(*outputs_of_pools(learner, ensemble)) if trained else EQUAL
    write_learner(job.output("learner"), learner.backbone, learner.heads if trained else None, read_weights)
    card |= {"arm": job.wildcards["arm"], "seed": int(job.wildcards["seed"]), "method": arm.method, "inversion": arm.inversion}
    card |= {"computed_on": job.computed_on, "teacher_classes": classes, "trained_heads": trained}
    card |= {"classifier": describe(arm.adaptation), "adaptation": as_tree(arm.adaptation)}
    artifacts.write_json(job.output("card"), card)
    artifacts.write_history(job.output("history"), history)
    artifacts.write_json(job.output("metrics"), {f"final_{key}": value for key, value in history[-1].items() if key != "step"})
    checkpoint.clear()


def _new_learner(job: Job, arm: Any, ensemble: TeacherEnsemble, classes: list[int], seed: int) -> tuple[Learner, dict[str, Any]]:
    """An untrained learner with the normalisation of a network for all teachers, and its card."""
    shape, searched = ensemble.pools[0].images.shape[1:], arm.backbone.genotype == "searched"
    config = searched_backbone(job.input("architecture"), arm.backbone.width) if searched else arm.backbone
    backbone = build(config, shape[0], shape[1], seed)
    with devices.seeded_initialisation(seed):
        heads = TeacherHeads(backbone.feature_size, classes, shared=getattr(arm, "one_head", False))
    card = network_card(backbone, config, shape, *common_normalisation(read_cards(job.input("zoo"))))
    return Learner(backbone, heads, ensemble.normalise), {**card, "start": None}


def _copy_of_teacher(job: Job, start: str, ensemble: TeacherEnsemble, classes: list[int], seed: int) -> tuple[Learner, dict[str, Any]]:
    """A learner that starts as the teacher ``start``, or as the one chosen for ``auto``, and its card."""
    names = [teacher.name for teacher in ensemble.teachers]
    index = best_start(ensemble, job.config["seed"]) if start == "auto" else names.index(start)
    learner = learner_from_teacher(ensemble, index, classes, seed)
    teacher_card = read_cards(job.input("zoo"))[index]
    card = network_card(learner.backbone, architecture(teacher_card), teacher_card["input"], teacher_card["mean"], teacher_card["std"])
    return learner, {**card, "start": names[index]}
