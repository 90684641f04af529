"""Meta-learning arms by method name. A new method is one file here, its settings in ``datafree.config.arms``, and one line in ``ARMS``.

All are called as ``train(learner, ensemble, episodes, arm, seed, checkpoint)``, train the learner in place and return the training history,
one dictionary of numbers per step. The seed is that of a step's tasks, images, views and teachers; the learner is initialised before.
The module of a method is imported only when the method is looked up.
"""

from collections.abc import Callable
from typing import Any

from datafree.registry import Registry

ARMS: Registry[Callable[..., list[dict[str, float]]]] = Registry(
    {
        "bell": "datafree.meta.bell:train",
        "distillation": "datafree.meta.distillation:train",
        "protonet": "datafree.meta.protonet:train",
        "maml": "datafree.meta.maml:train",
        "anil": "datafree.meta.maml:train",
        "igr": "datafree.meta.igr:train",
        "dro": "datafree.meta.dro:train",
    }
)

# Methods that query teachers about every batch, which takes about half of the time of a step. All learners of such an arm are trained on
# the same batches, whatever their seed, so that learners of one process share the predictions; their initial weights differ.
COMMON_BATCHES = ("bell", "distillation", "igr")


def trains_heads(arm: Any) -> bool:
    """Whether an arm (settings of ``datafree.config.arms``) trains one head per teacher: with a distillation loss."""
    return arm.method in COMMON_BATCHES and getattr(arm, "distillation", 1) > 0


__all__ = ["ARMS", "COMMON_BATCHES", "trains_heads"]
