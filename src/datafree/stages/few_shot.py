"""Stage ``few_shot``: the few-shot table, accuracies of learners, baselines and oracles on the same episodes of real images."""

from __future__ import annotations

from pathlib import Path

from datafree import artifacts, devices
from datafree.config import EvaluationConfig, typed
from datafree.data.images import ImageSet
from datafree.data.layout import by_domain
from datafree.errors import UserError
from datafree.evaluation.few_shot import episodes_error
from datafree.evaluation.representations import weights_for
from datafree.evaluation.rows import TrainedNetwork, baselines, learners, oracles
from datafree.evaluation.table import accuracy_table, headline
from datafree.stages.files.image_sets import read_image_set
from datafree.stages.files.learners import read_learner
from datafree.stages.files.networks import CARD_KEYS, read_backbone, read_classifier
from datafree.stages.files.teachers import read_teachers
from datafree.workflow.provenance import Job
from datafree.zoo.teachers import move

FOLDER = "artifacts/evaluation/few_shot"
READS = ("seed", "evaluation", "learners")


def run(job: Job) -> None:
    """Inputs: ``images`` (of the evaluation split); ``zoo``, the index of the teachers; ``learners`` and ``learner_cards``;
    optionally ``oracles`` and ``oracle_cards``.

    Outputs: ``results``, ``metrics`` (``headline``, for comparisons between revisions).
    """
    config = typed(EvaluationConfig, job.config["evaluation"])
    images = read_image_set(job.input("images"))
    _check(images, config)
    trained = _read_all(job, "learners", "learner_cards")
    references = _read_all(job, "oracles", "oracle_cards")
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        teachers = [move(t, device) for t in read_teachers(job.input("zoo"))]
        together = devices.together(device)
        models = [
            *learners(trained, config, device, together=together),
            *baselines(teachers, images.images.shape[1:], config, job.config["seed"], device, together=together),
            *oracles(references, config, device, together=together),
        ]
        rows = accuracy_table(models, images, config, job.config["seed"], device)
    computed_on = sorted({job.computed_on, *(network.card["computed_on"] for network in [*trained, *references])})
    settings = {"computed_on": computed_on, **{key: getattr(config, key) for key in ("split", "way", "query", "episodes", "mirrored")}}
    artifacts.write_json(job.output("results"), {**settings, "rows": rows})
    artifacts.write_json(job.output("metrics"), {"split": config.split, **headline(rows)})


def _read_all(job: Job, weights: str, cards: str) -> list[TrainedNetwork]:
    return [_read(*files) for files in zip(job.input_list(weights), job.input_list(cards), strict=True)]


def _read(weights: Path, card_path: Path) -> TrainedNetwork:
    """A learner or a reference network, with its card and the heads that were trained with it."""
    card = artifacts.read_json(card_path, *CARD_KEYS)
    if "arm" in card:
        return TrainedNetwork(card, *read_learner(weights, card_path))
    if "adaptation" in card:
        return TrainedNetwork(card, *read_backbone(weights, card_path))
    classifier, normalise = read_classifier(weights, card_path)
    return TrainedNetwork(card, classifier.backbone, normalise, classifier.head, weights_for(len(card["classes"])))


def _check(images: ImageSet, config: EvaluationConfig) -> None:
    parts = [images.of_classes(classes) for classes in by_domain(images.classes).values()] if config.by_domain else [images]
    for part in parts:
        if reason := episodes_error(part, config.split, config.way, max(config.shots), config.query):
            raise UserError(reason)
