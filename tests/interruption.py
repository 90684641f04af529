"""A training that is interrupted after some steps, and resumed from its checkpoint."""

from datafree.checkpoints import Checkpoint


class Interrupted(Exception):
    """Stands for anything that ends a process in the middle of its work."""


class Interrupting(Checkpoint):
    """Saves every step and raises after ``steps``; ``restored`` is the step at which a training resumed."""

    def __init__(self, path, steps=None):
        super().__init__(path, "work", seconds_between=0)
        self.steps = steps

    def write(self, step, history, **objects):
        super().write(step, history, **objects)
        if step == self.steps:
            raise Interrupted

    def restore(self, **objects):
        resumed = super().restore(**objects)
        self.restored = resumed[0]
        return resumed
