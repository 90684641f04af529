"""Stage ``meta_generator``: train the meta-generator (FIVE) on all teachers."""

from __future__ import annotations

from datafree import artifacts, devices
from datafree.config import InversionStepConfig, MetaGeneratorConfig, typed
from datafree.inversion.generator import new_generator
from datafree.inversion.meta_generator import train_meta_generator
from datafree.stages.files.teachers import read_teachers
from datafree.workflow.job_checkpoints import checkpoint_of
from datafree.workflow.provenance import Job
from datafree.zoo.teachers import move

FOLDER = "artifacts/inversion/meta_generator"
READS = (
    "seed", "data.image_size", "inversion.loss", "inversion.shift", "inversion.augmentation", "inversion.auxiliary_teachers",
    "inversion.region", "inversion.compile", "inversion.meta_generator",
)  # fmt: skip
SHARED = ("loss", "shift", "augmentation", "auxiliary_teachers", "region", "compile")  # settings that all methods use


def run(job: Job) -> None:
    """Input: ``zoo``, the index of the teachers. Outputs: ``generator``, ``history``, ``metrics``."""
    shared = typed(InversionStepConfig, {key: job.config[f"inversion.{key}"] for key in SHARED})
    settings = typed(MetaGeneratorConfig, job.config["inversion.meta_generator"])
    teachers = read_teachers(job.input("zoo"))
    classes = max(len(teacher.classes) for teacher in teachers)
    shape = {"latent": settings.latent, "width": settings.width, "classes": classes, "channels": 3, "conditional": settings.conditional}
    size = job.config["data.image_size"]  # of the recovered images; they are resized for each teacher
    seed = devices.derive_seed(job.config["seed"], "meta_generator")
    generator = new_generator(**shape, size=size, seed=seed)
    checkpoint = checkpoint_of(job)
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        placed = [move(teacher, device) for teacher in teachers]
        together = devices.together(device)
        history = train_meta_generator(generator.to(device), placed, settings, shared, seed, checkpoint, together=together)
    artifacts.write_tensors(job.output("generator"), generator.state_dict(), **shape, size=size)
    artifacts.write_history(job.output("history"), history)
    artifacts.write_json(job.output("metrics"), {f"final_{key}": value for key, value in history[-1].items() if key != "step"})
    checkpoint.clear()
