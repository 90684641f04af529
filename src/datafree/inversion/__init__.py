"""Inversion methods by name: each recovers images of one teacher's training distribution as a labelled pool.

A method is one module here with a function ``recover``, a settings dataclass in ``datafree.config.inversions``, and a line in ``METHODS``.
Its module is imported only when the method is looked up, so an edit of it concerns only the jobs that use the method.

Every method has the signature

    recover(recoveries, method, shared, *, size, start, together) -> Outcomes

- ``recoveries``: teachers with their seeds, checkpoints and auxiliary teachers; see ``Recovery``.
- ``method``: the method's own settings.
- ``shared``: ``RecoveryConfig``, the settings of all methods (``loss``, ``shift``, ``augmentation``, ``auxiliary_teachers``, ``region``,
  ``images_per_class``).
- ``size``: height and width of the recovered images, in pixels.
- ``start``: the meta-generator if ``starts_from_meta(method)``, otherwise None.
- ``together``: teachers of one architecture are recovered in one pass, which pays on a GPU. A method that cannot recovers one teacher after
  the other. Without it, the result of a recovery does not depend on the others, to the last bit.

A method yields the index and the result of each recovery as soon as it is finished: a ``UserError`` if its loss became NaN or infinite,
which costs the others nothing.
"""

from collections.abc import Callable
from typing import Any

from datafree.inversion.recovered import Outcome, Outcomes, Recovered, Recovery
from datafree.registry import Registry

METHODS: Registry[Callable[..., Outcomes]] = Registry(
    {
        "generator": "datafree.inversion.generator_inversion:recover",
        "pixels": "datafree.inversion.pixels:recover",
        "learnable_set": "datafree.inversion.learnable_set:recover",
        "black_box": "datafree.inversion.black_box:recover",
    }
)


def recover_one(recovery: Recovery, method: Any, shared: Any, *, size: int, start: Any = None, together: bool = False) -> Recovered:
    """The result of a single recovery by ``method``; ``together``: its batches of images in one pass, where they are independent.

    Raises:
        UserError: its loss became NaN or infinite.
    """
    ((_, outcome),) = METHODS[method.method]([recovery], method, shared, size=size, start=start, together=together)
    if isinstance(outcome, Recovered):
        return outcome
    raise outcome


__all__ = ["METHODS", "Outcome", "Outcomes", "Recovered", "Recovery", "recover_one"]
