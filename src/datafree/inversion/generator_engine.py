"""Method ``generator``: one generator per teacher, adapted from the meta-generator (FIVE) or from weights of its own, draws the pool."""

from __future__ import annotations

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import GeneratorInversion, Initialisation, InversionConfig
from datafree.inversion.adaptation import adapt, draw_pool, soft_labels
from datafree.inversion.generator import Generator, new_generator
from datafree.inversion.recovered import Recovered
from datafree.zoo.teachers import Teacher

CHANNELS = 3  # teachers of grey images see the average


def recover(
    teacher: Teacher,
    method: GeneratorInversion,
    shared: InversionConfig,
    *,
    size: int,
    start: Generator | None,
    seed: int,
    checkpoint: Checkpoint,
) -> Recovered:
    """Adapt a generator in ``method.steps`` steps, then draw ``shared.images_per_class`` images of every class from it.

    Args:
        size: pixels of the square images.
        start: the meta-generator, for ``initialisation: meta``.

    Raises:
        UserError: the loss became NaN or infinite.
    """
    device = teacher.normalise.mean.device
    if method.initialisation is Initialisation.random:
        shape = {"latent": method.latent, "width": method.width, "classes": len(teacher.classes), "channels": CHANNELS}
        start = new_generator(**shape, size=size, seed=devices.derive_seed(seed, "initialisation"))
    assert start is not None
    adapted, history = adapt(
        start.to(device), teacher, steps=method.steps, learning_rate=method.learning_rate, batch_size=method.batch_size,
        shift=shared.shift, weights=shared.loss, seed=seed, checkpoint=checkpoint,
    )  # fmt: skip
    images, labels = draw_pool(adapted, teacher, shared.images_per_class, method.batch_size, devices.generator(seed, "pool"))
    return Recovered(images, labels, soft_labels(teacher, images), history)
