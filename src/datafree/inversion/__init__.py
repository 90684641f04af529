"""Inversion methods by name: each recovers one teacher's training images.

A new one is one file here with a function ``recover``, its settings in ``datafree.config.schema``, and one line in ``METHODS``. All are
called as ``recover(teacher, method, shared, *, size, start, seed, checkpoint, auxiliary_teachers)``: the teacher is on the device to use and
stays as it is; ``method`` holds the method's own settings and ``shared`` those of all methods (``loss``, ``shift``, ``augmentation``,
``auxiliary_teachers``, ``region``, ``images_per_class``); images are ``size`` pixels square; ``start`` is the meta-generator where the settings
ask for it (``starts_from_meta``), otherwise None; ``auxiliary_teachers`` are the other teachers of the zoo, on the same device.
"""

from collections.abc import Callable

from datafree.inversion import black_box, generator_inversion, learnable_set, pixels
from datafree.inversion.recovered import Recovered

METHODS: dict[str, Callable[..., Recovered]] = {
    "generator": generator_inversion.recover,
    "pixels": pixels.recover,
    "learnable_set": learnable_set.recover,
    "black_box": black_box.recover,
}

__all__ = ["METHODS", "Recovered"]
