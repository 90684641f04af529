"""Inversion methods by name: each recovers images of one teacher's training distribution as a labelled pool.

A method is one module here with a function ``recover``, a settings dataclass in ``datafree.config.inversions``, and a line in ``METHODS``.
Its module is imported only when the method is looked up, so an edit of it concerns only the jobs that use the method.

Every method has the signature

    recover(teacher, method, shared, *, size, start, seed, checkpoint, auxiliary_teachers=()) -> Recovered

- ``teacher``: frozen, on the device to compute on; never changed.
- ``method``: the method's own settings.
- ``shared``: ``RecoveryConfig``, the settings of all methods (``loss``, ``shift``, ``augmentation``, ``auxiliary_teachers``, ``region``,
  ``images_per_class``).
- ``size``: height and width of the recovered images, in pixels.
- ``start``: the meta-generator if ``starts_from_meta(method)``, otherwise None.
- ``seed``: determines every random number; global random state is neither read nor changed.
- ``checkpoint``: saves and restores progress; an interrupted recovery continues to the same result.
- ``auxiliary_teachers``: other teachers of the zoo whose BatchNorm statistics regularise the images, on the same device.

A method raises ``UserError`` if its loss becomes NaN or infinite.
"""

from collections.abc import Callable

from datafree.inversion.recovered import Recovered
from datafree.registry import Registry

METHODS: Registry[Callable[..., Recovered]] = Registry(
    {
        "generator": "datafree.inversion.generator_inversion:recover",
        "pixels": "datafree.inversion.pixels:recover",
        "learnable_set": "datafree.inversion.learnable_set:recover",
        "black_box": "datafree.inversion.black_box:recover",
    }
)

__all__ = ["METHODS", "Recovered"]
