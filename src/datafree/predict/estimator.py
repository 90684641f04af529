"""``FewShotEstimator``: a few-shot classifier of images with the methods of scikit-learn's classifiers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datafree.errors import UserError
from datafree.predict.classifier import REJECT, FewShotClassifier, fit
from datafree.predict.files import SUFFIX, read_classifier, read_learner, write_classifier
from datafree.predict.inputs import Images, as_batch
from datafree.predict.labels import check_class_name
from datafree.predict.network import TrainedLearner


class NotFitted(UserError, ValueError, AttributeError):
    """A prediction by an estimator without classes; the base classes are those of scikit-learn's ``NotFittedError``."""


class FewShotEstimator:
    """Learns classes from a few images each, with a trained learner that is not changed.

    Args:
        learner: a learner, or the path of its file (see ``datafree.load_learner``).
        reject: share of images of the known classes, in [0, 1), that ``predict`` may take for images of none of them; 0: none is.
        unknown: what ``predict`` gives for an image unlike all classes; None: the most similar class.

    Attributes:
        classes_: the distinct labels, sorted, once ``fit`` or ``partial_fit`` has been called.

    Images come in any of the forms of ``datafree.predict.inputs.ACCEPTED`` and of any size. Works in scikit-learn's pipelines and with its
    ``clone``.
    """

    def __init__(self, learner: TrainedLearner | str | Path, reject: float = REJECT, unknown: Any = None) -> None:
        self.learner = learner
        self.reject = reject
        self.unknown = unknown

    def fit(self, images: Images, labels: Sequence[Any] | np.ndarray | torch.Tensor) -> FewShotEstimator:
        """Learn the classes of ``labels``, one label per image, at least two classes in any numbers of images; forgets earlier classes.

        Raises:
            UserError: images or labels of the wrong form or number, or one class.
        """
        batch = self._batch(images)
        given = _labels(labels, len(batch))
        return self._learn(self._trained.represent(batch), given)

    def partial_fit(self, images: Images, labels: Sequence[Any] | np.ndarray | torch.Tensor, classes: Any = None) -> FewShotEstimator:
        """Add images of new or known classes; the result is that of ``fit`` on all images so far.

        ``classes`` has no effect: unlike scikit-learn's classifiers, this one accepts new classes at any time.

        Raises:
            UserError: as ``fit``.
        """
        if not hasattr(self, "classifier_"):
            return self.fit(images, labels)
        batch = self._batch(images)
        given, before = _labels(labels, len(batch)), self.classes_[self.classifier_.labels.numpy()]
        if _kind(given) != _kind(before):
            raise UserError(f"labels: expected {_kind(before)}, like those of the classes so far; got {_kind(given)}")
        support = torch.cat([self.classifier_.support, self._trained.represent(batch)])
        return self._learn(support, np.concatenate([before, given]))

    def predict(self, images: Images) -> np.ndarray:
        """The label of each image [N]; ``unknown``, if given, for an image unlike all classes."""
        representations = self._represent(images)
        predicted = self.classes_[self.classifier_.logits(representations).argmax(1).numpy()]
        if self.unknown is None:
            return predicted
        predicted = predicted.astype(object)  # `unknown` may be of another type than the labels
        predicted[self.classifier_.rejected(representations).numpy()] = self.unknown
        return predicted

    def predict_proba(self, images: Images) -> np.ndarray:
        """Calibrated probabilities float64 [N, classes], in the order of ``classes_``; each row sums to 1."""
        return self.classifier_.logits(self._represent(images)).double().softmax(1).numpy()

    def decision_function(self, images: Images) -> np.ndarray:
        """Logits float32 [N, classes], whose softmax is ``predict_proba``."""
        return self.classifier_.logits(self._represent(images)).numpy()

    def similarity(self, images: Images) -> np.ndarray:
        """How much each image resembles one of the classes, float32 [N] (see ``FewShotClassifier.similarity``)."""
        return self.classifier_.similarity(self._represent(images)).numpy()

    def score(self, images: Images, labels: Sequence[Any] | np.ndarray | torch.Tensor) -> float:
        """The share of images, in [0, 1], whose predicted label is the given one."""
        predicted = self.predict(images)
        given = _labels(labels, len(predicted))
        if _kind(given) != _kind(self.classes_):
            raise UserError(f"labels: expected {_kind(self.classes_)}, like those of the classes; got {_kind(given)}")
        return float((predicted == given).mean())

    def save(self, path: str | Path) -> None:
        """Write the classifier and its learner into one file, which ``datafree classify`` and ``load_classifier`` read.

        Raises:
            UserError: not fitted, another extension than .safetensors, a class name that is not allowed, or a place that cannot be written.
        """
        classifier = self._fitted()
        if Path(path).suffix != SUFFIX:
            raise UserError(f"{path}: expected a name that ends in {SUFFIX}")
        names = [str(label) for label in self.classes_]
        for name in names:
            check_class_name(name)
        try:
            write_classifier(Path(path), self._trained, classifier, names)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place, or make room") from None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **parameters: Any) -> FewShotEstimator:
        """Change arguments of the constructor. A fitted estimator keeps its classes with another ``reject``, but not with another learner.

        Raises:
            ValueError: an argument that does not exist.
            UserError: a value of ``reject`` that is not allowed.
        """
        if unknown := [name for name in parameters if name not in self.get_params()]:
            raise ValueError(f"{unknown[0]}: expected one of {', '.join(self.get_params())}")
        if "learner" in parameters:
            for name in ("_trained", "_classifier", "classes_"):
                self.__dict__.pop(name, None)
        for name, value in parameters.items():
            setattr(self, name, value)
        if "reject" in parameters and hasattr(self, "classifier_"):
            self._learn(self.classifier_.support, self.classes_[self.classifier_.labels.numpy()])
        return self

    def __repr__(self) -> str:
        learner = self.learner if isinstance(self.learner, (str, Path)) else self.learner.card.get("arm", "learner")
        return f"{type(self).__name__}({str(learner)!r}, reject={self.reject}, unknown={self.unknown!r})"

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags  # pyright: ignore[reportMissingImports]

        return Tags("classifier", TargetTags(required=True), None, ClassifierTags(), None, input_tags=InputTags(two_d_array=False))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classifier_")

    @functools.cached_property
    def _trained(self) -> TrainedLearner:
        return self.learner if isinstance(self.learner, TrainedLearner) else read_learner(Path(self.learner))

    @property
    def classifier_(self) -> FewShotClassifier:
        """The fitted classifier.

        Raises:
            NotFitted: there is none yet.
        """
        return self._fitted()

    def _fitted(self) -> FewShotClassifier:
        try:
            return self._classifier
        except AttributeError:
            raise NotFitted("the estimator has no classes yet; call fit with images and labels first") from None

    def _batch(self, images: Images) -> torch.Tensor:
        return as_batch(images, self._trained.image_size)

    def _represent(self, images: Images) -> torch.Tensor:
        self._fitted()
        return self._trained.represent(self._batch(images))

    def _learn(self, support: torch.Tensor, labels: np.ndarray) -> FewShotEstimator:
        if not isinstance(self.reject, (int, float)) or not 0 <= self.reject < 1:
            raise UserError(f"reject: got {self.reject}; allowed: at least 0 and less than 1")
        classes, indices = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise UserError(f"labels: expected at least 2 classes, got {len(classes)}")
        self._classifier = fit(support, torch.from_numpy(indices.reshape(-1)), len(classes), self._trained.negatives, self.reject)
        self.classes_ = classes
        return self


def _labels(labels: Sequence[Any] | np.ndarray | torch.Tensor, count: int) -> np.ndarray:
    try:
        values = np.asarray(labels)
    except (ValueError, TypeError):
        values = np.empty((), dtype=object)
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values.flat):
        values = values.astype(str)
    mixed = values.dtype.kind == "U" and not isinstance(labels, np.ndarray) and not all(isinstance(value, str) for value in labels)
    if values.ndim == 1 and (mixed or values.dtype.kind not in "biufU" or (values.dtype.kind == "f" and not np.isfinite(values).all())):
        raise UserError("labels: expected all strings or all numbers, none of them missing")
    if values.shape != (count,):
        raise UserError(f"labels: expected one per image, {count}; got the shape {list(values.shape)}")
    return values


def _kind(labels: np.ndarray) -> str:
    return "strings" if labels.dtype.kind == "U" else "numbers"


def load_classifier(path: str | Path) -> FewShotEstimator:
    """A fitted estimator from a file that ``datafree adapt`` or ``FewShotEstimator.save`` wrote; its labels are strings.

    Raises:
        UserError: the file is missing, damaged, of another kind or of another version.
    """
    learner, classifier, classes = read_classifier(Path(path))
    estimator = FewShotEstimator(learner)
    estimator._classifier, estimator.classes_ = classifier, np.array(classes)
    return estimator
