"""Training a classifier on real images: teachers of the default zoo, the oracle, and the independent classifier of recovered images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.data.images import ImageSet
from datafree.errors import UserError
from datafree.progress import progress, require_finite
from datafree.zoo.augmentation import random_affine
from datafree.zoo.backbones import Classifier, Normalise


def hold_out(data: ImageSet, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split the images of every class at random into (training, held-out); both have at least one image per class.

    The same set and seed give the same split. Therefore no teacher, oracle or independent classifier is trained on images on which
    another one is measured.

    Raises:
        UserError: a class with a single image.
    """
    rng = devices.generator(seed, "hold-out")
    training, held_out = [], []
    for label in range(len(data.classes)):
        members = torch.nonzero(data.labels == label).flatten()
        members = members[torch.randperm(len(members), generator=rng)]
        if len(members) < 2:
            raise UserError(
                f"data: class {data.classes[label]}: {len(members)} image; expected at least 2, one to train on and one held out"
            )
        cut = min(max(1, round(share * len(members))), len(members) - 1)
        held_out.append(members[:cut])
        training.append(members[cut:])
    kept, held = torch.cat(training), torch.cat(held_out)
    return (
        ImageSet(data.images[kept], data.labels[kept], data.classes),
        ImageSet(data.images[held], data.labels[held], data.classes),
    )


def with_label_noise(data: ImageSet, share: float, seed: int) -> ImageSet:
    """The set with a ``share`` of its labels replaced by uniformly random classes, so that some of them stay correct by chance."""
    rng = devices.generator(seed, "label noise")
    changed = torch.rand(len(data.labels), generator=rng) < share
    random = torch.randint(len(data.classes), data.labels.shape, generator=rng)
    return ImageSet(data.images, torch.where(changed, random, data.labels), data.classes)


def train_classifier(
    network: Classifier,
    normalise: Normalise,
    data: ImageSet,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    device: torch.device,
    label: str,
) -> list[dict[str, float]]:
    """Train ``network`` in place: cross-entropy on augmented real images, AdamW with a one-cycle schedule.

    Returns the training curve: rows of step, loss and accuracy on the batch.
    """
    rng = devices.generator(seed, "batches")
    network.to(device).train()
    normalise.to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=max(steps, 2))
    history, images_of_data = [], devices.resident(data.images, device)
    for step in progress(range(steps), steps, label):
        chosen = torch.randint(len(data.labels), (batch_size,), generator=rng)
        images = random_affine(normalise(devices.rows(images_of_data, chosen, device)), rng, degrees=10, scale=0.1, shift=0.06)
        target = devices.moved(data.labels[chosen], device)
        logits = network(images).float()
        loss = F.cross_entropy(logits, target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 20 == 0 or step == steps - 1:
            accuracy = (logits.argmax(1) == target).float().mean().item()
            history.append({"step": step + 1, "loss": loss.item(), "accuracy": accuracy})
            require_finite(label, step + 1, loss=loss.item())
    network.eval()
    return history


@torch.no_grad()
def logits_of(network: Classifier, normalise: Normalise, images: Tensor, device: torch.device, batch_size: int = 500) -> Tensor:
    """Logits float32 [N, classes], on the CPU, for uint8 images [N, C, H, W]; sets the network to evaluation mode."""
    network.to(device).eval()
    normalise.to(device)
    return torch.cat([network(normalise(devices.moved(part, device))).float() for part in images.split(batch_size)]).cpu()


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share in [0, 1] of the rows of ``logits`` [N, classes] whose argmax is the label [N]."""
    return (logits.argmax(1) == labels).float().mean().item()
