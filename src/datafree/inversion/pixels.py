"""Method ``pixels``: pixel inversion (DeepInversion), images as free parameters under Adam.

Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020: cross-entropy, BatchNorm statistics
(eq. 4), total variation and ℓ2 (eq. 3); with a student (``competition``) it is Adaptive DeepInversion (eq. 5 and 6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import PixelInversion, RecoveryConfig
from datafree.inversion.generator import Generator
from datafree.inversion.inner_loop import balanced_labels
from datafree.inversion.label_calibration import calibrated_targets
from datafree.inversion.losses import jensen_shannon
from datafree.inversion.objective import as_row, image_terms, random_view, weighted
from datafree.inversion.pixel_parameters import PixelParameters, coarse_steps, stage_share
from datafree.inversion.recovered import Recovered
from datafree.inversion.student import Student
from datafree.progress import progress, require_finite
from datafree.zoo.teachers import Teacher, soft_labels

TEMPERATURE = 3.0  # of teacher and student logits in the competition term, as in the authors' code


def recover(
    teacher: Teacher,
    method: PixelInversion,
    shared: RecoveryConfig,
    *,
    size: int,
    start: Generator | None,
    seed: int,
    checkpoint: Checkpoint,
    auxiliary_teachers: Sequence[Teacher] = (),
) -> Recovered:
    """A pool of ``shared.images_per_class`` images per class, ``size`` pixels square; ``start`` is not used.

    The images are optimised in batches of about ``method.batch_size``, each starting from its own noise. For the first ``method.coarse`` of
    a batch's steps the images have half the size and are resized to the teacher's input; then they are enlarged. (The authors' code passes
    smaller images to the teacher, which networks of a fixed input size do not accept.) With ``method.calibration_rounds`` > 1 the whole
    pool is optimised that many times, from new noise; see ``calibrated_targets``.

    Raises:
        UserError: the loss became NaN or infinite.
    """
    weights = replace(
        shared.loss,
        total_variation=method.total_variation,
        squared_norm=method.squared_norm,
        diversity=shared.loss.diversity if method.diversity else 0.0,
    )
    labels = balanced_labels(len(teacher.classes), len(teacher.classes) * shared.images_per_class)
    # Equal parts: the loss compares batch statistics, which a short last batch would match worse.
    parts = labels.tensor_split(math.ceil(len(labels) / method.batch_size))
    parameters = PixelParameters(teacher.normalise.mean.device, method.learning_rate, betas=(0.5, 0.9))
    extras = [CompetitionStudent([teacher], method.competition, size, devices.derive_seed(seed, "student"))] if method.competition else []
    state = {"parameters": parameters, **{extra.name: extra for extra in extras}}
    first, history = checkpoint.restore(**state)
    coarse = coarse_steps(method.coarse, method.steps)
    total = method.calibration_rounds * len(parts) * method.steps
    batch_labels, targets = labels, None
    for iteration in progress(range(first, total), total - first, f"pixels of {teacher.name}"):
        (calibration, part), step = divmod(iteration // method.steps, len(parts)), iteration % method.steps
        rng = devices.generator(seed, "pixels", calibration, part, step)
        if step == 0:
            parameters.start(len(parts[part]), size // 2 if coarse else size, rng)
        if step == coarse > 0:
            parameters.enlarge(size)
        if step == 0 or iteration == first:
            batch_labels = parts[part].to(parameters.device)
            targets = None if calibration == 0 else _calibrated(teacher, parts[part], parameters.finished[part]).to(parameters.device)
        images, view = parameters.images(), random_view(parameters.pixels.shape[-1], shared, rng, auxiliary_teachers)
        mirrored = method.flip and bool(torch.rand((), generator=rng) < 0.5)
        images = images.flip(3) if mirrored else images
        terms = image_terms(images, teacher, batch_labels, weights, targets=targets, **view)
        terms |= {extra.name: extra.term(images, batch_labels, teacher, rng) for extra in extras}
        parameters.step(weighted(terms, weights, extras), stage_share(step, coarse, method.steps), view["region"], mirrored)
        for extra in extras:
            extra.learn(images, teacher)
        history.append(as_row(iteration + 1, terms))
        require_finite(f"pixels of {teacher.name}", **history[-1])
        if step == method.steps - 1:
            parameters.finish(part)
        checkpoint.save(iteration + 1, history, **state)
    images = torch.cat(parameters.finished)
    return Recovered(images, labels, soft_labels(teacher, images), history)


def _calibrated(teacher: Teacher, labels: Tensor, images: Tensor) -> Tensor:
    return calibrated_targets(labels, soft_labels(teacher, images), len(teacher.classes))


class CompetitionStudent(Student):
    """Adaptive DeepInversion's student: its term moves images to where its predictions differ from the teacher's."""

    name = "competition"

    def term(self, images: Tensor, labels: Tensor, teacher: Teacher, rng: torch.Generator) -> Tensor:
        """1 − JS(teacher ‖ student), a scalar in [0, 1], of images float [B, 3, S, S] in [0, 1]."""
        predictions = teacher.network(teacher.normalise(255 * images))
        return 1 - jensen_shannon(predictions / TEMPERATURE, self(images, teacher) / TEMPERATURE)
