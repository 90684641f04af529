"""Meta-learning arms by method name. A new method is one file here, its settings in ``datafree.config.arms``, and one line in ``ARMS``."""

from datafree.meta import bell, distillation, dro, igr, maml, protonet

ARMS = {
    "bell": bell.train,
    "distillation": distillation.train,
    "protonet": protonet.train,
    "maml": maml.train,
    "anil": maml.train,
    "igr": igr.train,
    "dro": dro.train,
}

__all__ = ["ARMS"]
