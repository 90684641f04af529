"""Stage ``learner``: train the meta-learner of one arm with one seed."""

from __future__ import annotations

from datafree import artifacts, devices
from datafree.config import ARM_TYPES, as_tree, typed
from datafree.distillation.heads import TeacherHeads
from datafree.evaluation.representations import ONE_HEAD, join_weights
from datafree.meta import ARMS, COMMON_BATCHES, trains_heads
from datafree.meta.adaptation import describe
from datafree.meta.learner import Learner, outputs_of_pools
from datafree.nas.networks import build
from datafree.stages.files.cards import read_cards
from datafree.stages.files.ensembles import read_ensemble
from datafree.stages.files.learners import write_learner
from datafree.stages.files.networks import searched_backbone
from datafree.stages.files.tasks import read_episodes
from datafree.workflow.job_checkpoints import checkpoint_of
from datafree.workflow.provenance import Job
from datafree.zoo.networks import network_card
from datafree.zoo.teachers import common_normalisation

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
    batch_seed = devices.derive_seed(job.config["seed"], "learner", "batches") if arm.method in COMMON_BATCHES else seed
    tasks, checkpoint = read_episodes(job.input("episodes")), checkpoint_of(job)
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        ensemble = read_ensemble(job, device)
        shape = ensemble.pools[0].images.shape[1:]
        searched = arm.backbone.genotype == "searched"
        backbone_config = searched_backbone(job.input("architecture"), arm.backbone.width) if searched else arm.backbone
        backbone = build(backbone_config, shape[0], shape[1], seed)
        classes = [count if index in ensemble.reliable else 0 for index, count in enumerate(ensemble.class_counts)]
        with devices.seeded_initialisation(seed):
            heads = TeacherHeads(backbone.feature_size, classes, shared=getattr(arm, "one_head", False))
        learner = Learner(backbone, heads, ensemble.normalise).to(device)
        history = ARMS[arm.method](learner, ensemble, tasks, arm, batch_seed, checkpoint)
        trained = trains_heads(arm)
        read_weights = join_weights(*outputs_of_pools(learner, ensemble)) if trained else ONE_HEAD
    mean, std = common_normalisation(read_cards(job.input("zoo")))
    card = network_card(backbone, backbone_config, shape, mean, std)
    write_learner(job.output("learner"), backbone, heads if trained else None, read_weights)
    arm_card = {"arm": job.wildcards["arm"], "seed": int(job.wildcards["seed"]), "method": arm.method, "inversion": arm.inversion}
    arm_card |= {"computed_on": job.computed_on, "teacher_classes": classes, "trained_heads": trained}
    arm_card |= {"classifier": describe(arm.adaptation), "adaptation": as_tree(arm.adaptation)}
    artifacts.write_json(job.output("card"), {**card, **arm_card})
    artifacts.write_history(job.output("history"), history)
    artifacts.write_json(job.output("metrics"), {f"final_{key}": value for key, value in history[-1].items() if key != "step"})
    checkpoint.clear()
