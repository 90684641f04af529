"""Stage ``networks``: accuracy on the validation classes and cost of every network that a user can learn new classes with."""

from __future__ import annotations

from pathlib import Path

from datafree import artifacts, devices
from datafree.config import EvaluationConfig, typed
from datafree.evaluation.few_shot import episodes_error
from datafree.predict import candidates
from datafree.predict.comparison import LEARNER, TEACHER, times_key
from datafree.predict.network import TrainedLearner
from datafree.stages.files import deployable
from datafree.stages.files.image_sets import read_image_set
from datafree.workflow.indexes import read_index
from datafree.workflow.provenance import Job

FOLDER = "artifacts/evaluation/networks"
READS = ("seed", "evaluation", "learners")


def run(job: Job) -> None:
    """Inputs: ``images`` (of the validation split); ``zoo``, the index of the teachers; ``learners`` and ``learner_cards``.

    Outputs: ``networks`` (the rows of ``candidates.compare``; none, and the ``reason``, if there are too few validation images), and
    ``times``: milliseconds for one image by ``learner/<name>`` and ``teacher/<name>``, which differ between equal runs.
    """
    config = typed(EvaluationConfig, job.config["evaluation"])
    images = read_image_set(job.input("images"))
    files = sorted(zip(job.input_list("learners"), job.input_list("learner_cards"), strict=True), key=lambda pair: _seed(pair[0]))
    learners: dict[str, TrainedLearner] = {}
    for weights, card in files:
        learner = deployable.of_learner(weights, card, mirrored=config.mirrored)
        learners.setdefault(learner.card["arm"], learner)
    teachers = {
        member.name: deployable.of_teacher(member.path("weights.safetensors"), member.path("card.json"), mirrored=config.mirrored)
        for member in read_index(job.input("zoo"))
    }
    reason = episodes_error(images, "validation", config.way, max(config.shots), config.query)
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        rows = [] if reason else candidates.compare(learners, teachers, images, config, job.config["seed"], device)
        times = candidates.times([*learners.values(), *teachers.values()], device)
    names = [times_key(kind, name) for kind, group in ((LEARNER, learners), (TEACHER, teachers)) for name in group]
    computed_on = sorted({job.computed_on, *(learner.card["computed_on"] for learner in learners.values())})
    settings = {"way": config.way, "query": config.query, "mirrored": config.mirrored, "computed_on": computed_on}
    artifacts.write_json(job.output("networks"), {**settings, "reason": reason, "rows": rows})
    artifacts.write_json(job.output("times"), {"milliseconds": dict(zip(names, times, strict=True)), "processor": job.computed_on})


def _seed(learner: Path) -> int:
    """The seed of the folder of a learner: that of the lowest one represents its arm, as in ``trained.load_learner``."""
    return int(learner.parent.name.removeprefix("seed"))
