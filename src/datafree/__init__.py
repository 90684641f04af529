"""datafree: few-shot meta-learners and compact architectures from pretrained classifiers, without their training data.

``load_learner`` gives a trained learner as a classifier of new classes with the methods of scikit-learn, ``load_classifier`` one that has
already learned its classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from datafree.predict.estimator import FewShotEstimator

__version__ = "0.1.0"
__all__ = ["load_classifier", "load_learner"]


def load_learner(path: str | Path) -> FewShotEstimator:
    """A learner that has not learned any class yet; call ``fit`` with images and labels.

    ``path`` is a file that ``datafree export`` wrote, or the folder of a learner in a project, ``artifacts/meta/<arm>/seed<seed>``.

    Raises:
        UserError: the file is missing, damaged, or of another version.
    """
    from datafree.predict.estimator import FewShotEstimator
    from datafree.stages.files import trained

    return FewShotEstimator(trained.load_learner(path))


def load_classifier(path: str | Path) -> FewShotEstimator:
    """A classifier that has learned its classes, from a file that ``datafree adapt`` wrote.

    Raises:
        UserError: the file is missing, damaged, of another kind or of another version.
    """
    from datafree.predict.estimator import load_classifier

    return load_classifier(path)
