"""Stage ``few_shot``: the one look at the evaluation split: arms, baselines and oracle on the same real episodes."""

from __future__ import annotations

from datafree import artifacts, devices
from datafree.config import EvaluationConfig, typed
from datafree.data.images import ImageSet, read_image_set
from datafree.data.layout import by_domain
from datafree.errors import UserError
from datafree.evaluation.few_shot import enough_images
from datafree.evaluation.rows import EvaluatedModel, baselines, learned, oracles
from datafree.evaluation.table import compare
from datafree.workflow.provenance import Job
from datafree.zoo.teachers import move, read_teachers


def run(job: Job) -> None:
    """Inputs: ``images`` (the split), ``weights`` and ``cards`` per teacher, ``learners`` and ``learner_cards``. Where real images of the
    teachers' classes are at hand also ``oracles`` and ``oracle_cards``.

    Outputs: ``results``, ``metrics`` (flat, for comparisons between revisions).
    """
    config = typed(EvaluationConfig, job.config["evaluation"])
    images = read_image_set(job.input("images"))
    _check(images, config)
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        teachers = [move(t, device) for t in read_teachers(job.input_list("weights"), job.input_list("cards"))]
        models: list[EvaluatedModel] = [
            *learned(job.input_list("learners"), job.input_list("learner_cards"), config, device),
            *baselines(teachers, images.images.shape[1:], config, job.config["seed"], device),
        ]
        models += oracles(job.input_list("oracles"), job.input_list("oracle_cards"), config, device)
        rows = compare(models, images, config, job.config["seed"], device)
    trained = [artifacts.read_json(path) for path in [*job.input_list("learner_cards"), *job.input_list("oracle_cards")]]
    computed_on = sorted({job.computed_on, *(card["computed_on"] for card in trained)})
    settings = {"computed_on": computed_on, "split": config.split, "way": config.way, "query": config.query, "episodes": config.episodes}
    artifacts.write_json(job.output("results"), {**settings, "rows": rows})
    flat = {row["name"]: {f"accuracy_{shot}shot": found["mean"] for shot, found in row["shots"].items()} for row in rows}
    artifacts.write_json(job.output("metrics"), {"split": config.split, **flat})


def _check(images: ImageSet, config: EvaluationConfig) -> None:
    parts = [images.of_classes(classes) for classes in by_domain(images.classes).values()] if config.by_domain else [images]
    for part in parts:
        if reason := enough_images(part, config.split, config.way, max(config.shots), config.query):
            raise UserError(reason)
