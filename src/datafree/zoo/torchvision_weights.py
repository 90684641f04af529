"""Published weights of torchvision by name: URL, hash, class names and normalisation."""

from __future__ import annotations

import re
from dataclasses import dataclass

from datafree.errors import UserError
from datafree.zoo.torchvision_guard import import_torchvision

HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")


@dataclass(frozen=True)
class PublishedWeights:
    """URL of a weights file, the beginning of its SHA-256, and the class names and normalisation of its training."""

    url: str
    sha256: str
    classes: tuple[str, ...]  # in the order of the logits
    mean: tuple[float, ...]
    std: tuple[float, ...]


def published(name: str) -> PublishedWeights:
    """Look up the weights ``name``, such as ``ResNet18_Weights.IMAGENET1K_V1``.

    Raises:
        UserError: no such weights, or not those of an image classifier.
    """
    models = import_torchvision().models
    try:
        weights = models.get_weight(name)
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"torchvision: got {name!r}: {error}; see torchvision.models.list_models and get_model_weights") from None
    hash_in_name = HASH_IN_NAME.search(weights.url)
    processing = weights.transforms()
    if not weights.meta.get("categories") or not hasattr(processing, "mean") or hash_in_name is None:
        raise UserError(f"torchvision: {name}: not the weights of an image classifier; choose others")
    mean, std = tuple(processing.mean), tuple(processing.std)
    if name.startswith(("GoogLeNet", "Inception")):  # their models convert the input to this normalisation themselves
        mean = std = (0.5, 0.5, 0.5)
    return PublishedWeights(weights.url, hash_in_name[1], tuple(weights.meta["categories"]), mean, std)
