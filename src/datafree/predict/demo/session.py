"""What a user of the demo page has given so far: classes with photos, and photos to label. Kept in memory, for one user."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image

from datafree.data.decoding import read_image
from datafree.errors import UserError
from datafree.predict.classifier import REJECT
from datafree.predict.estimator import FewShotEstimator
from datafree.predict.labels import Label, check_class_name, label
from datafree.predict.network import TrainedLearner

MOST_CLASSES, MOST_IMAGES, LONGEST_NAME = 50, 200, 80  # of the page, of one class, of a class name in characters
THUMBNAIL = 96  # pixels


@dataclass(frozen=True)
class Photo:
    """A photo as the learners see it, uint8 [3, S, S] by image size, and as the page shows it."""

    views: Mapping[int, torch.Tensor]
    thumbnail: str  # a data URI


@dataclass(frozen=True)
class LabelledPhoto:
    """The labels of one photo, by the name of the learner."""

    name: str
    thumbnail: str
    labels: Mapping[str, Label]


@dataclass
class Session:
    """The state of the page. Methods may be called from several threads."""

    learners: Mapping[str, TrainedLearner]
    classes: dict[str, list[Photo]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _fitted: dict[str, FewShotEstimator] = field(default_factory=dict)  # by learner, of the present classes

    def add(self, name: str, files: Sequence[tuple[str, bytes]]) -> None:
        """Add photos, (file name, content), to a class, which is new if there is none of that name. All or nothing.

        Raises:
            UserError: an empty or too long name, no photo, too many, or one that cannot be read.
        """
        name = " ".join(name.split())
        if not name or len(name) > LONGEST_NAME:
            raise UserError(f"expected a class name of 1 to {LONGEST_NAME} characters, got {len(name)}")
        check_class_name(name)
        if not files:
            raise UserError(f"{name}: expected at least one photo, got none")
        photos = [self._photo(file, content) for file, content in files]
        with self.lock:
            present = self.classes.get(name, [])
            if not present and len(self.classes) >= MOST_CLASSES:
                raise UserError(f"{name}: this page takes at most {MOST_CLASSES} classes")
            if len(present) + len(photos) > MOST_IMAGES:
                raise UserError(f"{name}: {len(present) + len(photos)} photos; a class takes at most {MOST_IMAGES}")
            self.classes[name] = present + photos
            self._fitted.clear()

    def remove(self, name: str) -> None:
        """Remove a class; nothing, if there is none of that name."""
        with self.lock:
            self.classes.pop(name, None)
            self._fitted.clear()

    def classify(self, files: Sequence[tuple[str, bytes]]) -> list[LabelledPhoto]:
        """The labels of photos, (file name, content), by every learner.

        Raises:
            UserError: fewer than two classes, no photo, or one that cannot be read.
        """
        if not files:
            raise UserError("expected at least one photo to label, got none")
        photos = [self._photo(name, content) for name, content in files]
        names = [name for name, _ in files]
        by_learner = {learner: self._labels(learner, names, photos) for learner in self.learners}
        return [
            LabelledPhoto(name, photo.thumbnail, {learner: labels[place] for learner, labels in by_learner.items()})
            for place, (name, photo) in enumerate(zip(names, photos, strict=True))
        ]

    def fitted(self, learner: str) -> FewShotEstimator:
        """A classifier of the classes so far by one of the learners, learned once for each state of the classes.

        Raises:
            UserError: fewer than two classes.
        """
        trained = self.learners[learner]
        with self.lock:
            if len(self.classes) < 2:
                raise UserError(f"expected at least 2 classes with photos, got {len(self.classes)}; add another class first")
            if learner not in self._fitted:
                names = [name for name, photos in self.classes.items() for _ in photos]
                images = torch.stack([photo.views[trained.image_size] for photos in self.classes.values() for photo in photos])
                self._fitted[learner] = FewShotEstimator(trained, REJECT).fit(images, names)
            return self._fitted[learner]

    def _labels(self, learner: str, names: Sequence[str], photos: Sequence[Photo]) -> list[Label]:
        trained, estimator = self.learners[learner], self.fitted(learner)
        with self.lock:
            representations = trained.represent(torch.stack([photo.views[trained.image_size] for photo in photos]))
        return label(estimator.classifier_, [str(name) for name in estimator.classes_], names, representations)

    def _photo(self, name: str, content: bytes) -> Photo:
        sizes = {learner.image_size for learner in self.learners.values()}
        return Photo({size: read_image(content, size, name) for size in sizes}, _data_uri(read_image(content, THUMBNAIL, name)))


def _data_uri(image: torch.Tensor) -> str:
    stream = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
