"""Meta-learning arms by method name. A new method is one file here, its settings in ``datafree.config.arms``, and one line in ``ARMS``.

All are called as ``train(learner, ensemble, episodes, arm, seed, checkpoint)``, train the learner in place and return the training history,
one dictionary of numbers per step. The seed is that of a step's tasks, images, views and teachers; the learner is initialised before.
The module of a method is imported only when the method is looked up.
"""

from collections.abc import Callable
from typing import Any

from datafree.config import Views
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

DISTILLING = ("bell", "distillation", "igr")  # methods that learn from the predictions of all teachers, with one head for each


def trains_heads(arm: Any) -> bool:
    """Whether an arm (settings of ``datafree.config.arms``) trains one head per teacher: with a distillation loss."""
    return arm.method in DISTILLING and getattr(arm, "distillation", 1) > 0


def shares_batches(arm: Any) -> bool:
    """Whether all learners of an arm are trained on the same batches, whatever their seed; their initial weights differ.

    True for arms that query the teachers about fresh views, which takes about half of the time of a step: learners of one process then
    share the predictions.
    """
    return arm.method in DISTILLING and arm.views is Views.fresh


__all__ = ["ARMS", "shares_batches", "trains_heads"]
