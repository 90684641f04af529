"""Meta-learning arms by name. A new one is one file here, its settings in ``datafree.config.schema``, and one line in ``ARMS``."""

from datafree.meta import bell, distillation

ARMS = {"bell": bell.train, "distillation": distillation.train}

__all__ = ["ARMS"]
