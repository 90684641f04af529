"""Stage ``invert``: recover one teacher's training images by one method."""

from __future__ import annotations

from datafree import artifacts, devices
from datafree.config import Initialisation, InversionConfig, InversionMethodConfig, typed
from datafree.data.images import class_sheet
from datafree.evaluation.inversion_quality import spread, teacher_belief
from datafree.inversion.adaptation import adapt, draw_pool, soft_labels
from datafree.inversion.generator import Generator, new_generator
from datafree.provenance import Job
from datafree.zoo.teachers import move, read_teacher

PREVIEW_COLUMNS = 12  # images per class in the preview


def run(job: Job) -> None:
    """Inputs: ``weights``, ``card``, ``generator``. Outputs: ``images``, ``metrics``, ``preview``."""
    shared = ("loss", "shift", "images_per_class", "meta_generator")
    config = typed(InversionConfig, {key: job.config[f"inversion.{key}"] for key in shared})
    method = typed(InversionMethodConfig, job.config["inversion.method"])
    teacher = read_teacher(job.input("weights"), job.input("card"))
    seed = devices.derive_seed(job.config["seed"], "invert", *job.wildcards.values())
    draw = devices.generator(seed, "draw")
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        teacher = move(teacher, device)
        adapted, terms = adapt(
            _initial(job, method, seed).to(device), teacher, steps=method.steps, batch_size=config.meta_generator.batch_size,
            learning_rate=config.meta_generator.inner_learning_rate, shift=config.shift, weights=config.loss, draw=draw,
        )  # fmt: skip
        images, labels = draw_pool(adapted, teacher, config.images_per_class, config.meta_generator.batch_size, draw)
        soft = soft_labels(teacher, images)
        belief = teacher_belief(teacher, images, labels, device)
    pool = {"images": images, "labels": labels, "soft_labels": soft}
    artifacts.write_tensors(job.output("images"), pool, teacher=teacher.name, method=job.wildcards["method"], seed=job.config["seed"])
    losses = {"cross_entropy": terms.cross_entropy, "batch_norm": terms.batch_norm, "diversity": terms.diversity}
    metrics = {**belief, **spread(teacher, images, labels), **{f"final_{k}": v.item() for k, v in losses.items()}}
    artifacts.write_json(job.output("metrics"), {**metrics, "images": len(images)})
    artifacts.write_image(job.output("preview"), class_sheet(images, labels, PREVIEW_COLUMNS))


def _initial(job: Job, method: InversionMethodConfig, seed: int) -> Generator:
    """The generator to adapt: the meta-generator, or one of its shape with fresh weights."""
    shape = artifacts.read_metadata(job.input("generator"))
    generator = new_generator(**shape, seed=seed)
    if method.initialisation is Initialisation.meta:
        generator.load_state_dict(artifacts.read_tensors(job.input("generator")))
    return generator
