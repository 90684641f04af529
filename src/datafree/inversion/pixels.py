"""DeepInversion: images as free pixels that a teacher recognises and whose statistics are those it remembers.

Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020: cross-entropy, BatchNorm statistics
(eq. 4), total variation and ℓ2 (eq. 3); with a competing student it is Adaptive DeepInversion (eq. 5 and 6).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import BackboneConfig, InversionConfig, PixelInversion
from datafree.inversion.adaptation import balanced_labels, soft_labels
from datafree.inversion.canvas import Canvas
from datafree.inversion.generator import Generator
from datafree.inversion.objective import as_row, image_terms, weighted
from datafree.inversion.recovered import Recovered
from datafree.progress import progress, require_finite
from datafree.zoo.backbones import Classifier, build
from datafree.zoo.teachers import Teacher

TEMPERATURE = 3.0  # at which teacher and student are compared, as in the authors' code


def recover(
    teacher: Teacher,
    method: PixelInversion,
    shared: InversionConfig,
    *,
    size: int,
    start: Generator | None,
    seed: int,
    checkpoint: Checkpoint,
) -> Recovered:
    """A pool of ``shared.images_per_class`` images per class, ``size`` pixels square; ``start`` is not used.

    The images are made in batches of about ``method.batch_size``, each from noise of its own. The first ``method.coarse`` of a batch's
    steps work on images of half the size, which the teacher sees enlarged; then the images are enlarged themselves. The authors show the
    teacher smaller images instead, which networks of a fixed input size cannot take.

    Raises:
        UserError: the loss became NaN or infinite.
    """
    weights = replace(shared.loss, total_variation=method.total_variation, squared_norm=method.squared_norm)
    labels = balanced_labels(len(teacher.classes), len(teacher.classes) * shared.images_per_class)
    # Equal parts: statistics are those of a batch, and a short last batch would match them worse.
    parts = labels.tensor_split(math.ceil(len(labels) / method.batch_size))
    canvas = Canvas(teacher.normalise.mean.device, method.learning_rate, betas=(0.5, 0.9))
    student = Student(teacher, method, seed)
    first, history = checkpoint.restore(canvas=canvas, student=student)
    coarse = min(round(method.coarse * method.steps), method.steps - 1)  # steps; the last one is always at full size
    total = len(parts) * method.steps
    for turn in progress(range(first, total), total - first, f"pixels of {teacher.name}"):
        part, step = divmod(turn, method.steps)
        draw = devices.generator(seed, "pixels", part, step)
        if step == 0:
            canvas.start(len(parts[part]), size // 2 if coarse else size, draw)
        if step == coarse > 0:
            canvas.enlarge(size)
        images = canvas.images()
        if method.flip and torch.rand((), generator=draw) < 0.5:
            images = images.flip(3)
        down, right = torch.randint(-shared.shift, shared.shift + 1, (2,), generator=draw).tolist()
        terms = image_terms(images, teacher, parts[part].to(canvas.device), weights, (down, right), student.compete)
        stage = (0, coarse) if step < coarse else (coarse, method.steps)
        loss = weighted({name: value for name, value in terms.items() if name != "competition"}, weights)
        canvas.step(loss + method.competition * terms["competition"], (step - stage[0]) / (stage[1] - stage[0]))
        student.learn()
        history.append(as_row(turn + 1, terms))
        require_finite(f"pixels of {teacher.name}", **history[-1])
        if step == method.steps - 1:
            canvas.finish()
        checkpoint.save(turn + 1, history, canvas=canvas, student=student)
    images = torch.cat(canvas.finished)
    return Recovered(images, labels, soft_labels(teacher, images), history)


class Student:
    """A small network that learns from the images while they are made; with ``method.competition`` 0 there is none.

    Images on which it does not agree with the teacher yet are those that teach it something: Adaptive DeepInversion asks for them.
    """

    def __init__(self, teacher: Teacher, method: PixelInversion, seed: int) -> None:
        self.network: Classifier | None = None
        if method.competition == 0:
            return
        channels, height, _ = teacher.input
        initial = devices.derive_seed(seed, "student")
        backbone = build(BackboneConfig("conv4_strided", method.student_width), channels, height, initial)
        with devices.seeded_initialisation(initial):
            self.network = Classifier(backbone, len(teacher.classes)).to(teacher.normalise.mean.device)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=method.student_learning_rate)

    def compete(self, views: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """1 − JS(teacher ‖ student) in [0, 1] as ``competition``; the student will ``learn`` from these views and logits."""
        if self.network is None:
            return {"competition": logits.new_zeros(())}
        self.seen = views.detach(), logits.detach()
        self.network.eval().requires_grad_(False)
        return {"competition": 1 - jensen_shannon(logits / TEMPERATURE, self.network(views).float() / TEMPERATURE)}

    def learn(self) -> None:
        """One step towards the teacher on what both have seen last."""
        if self.network is None:
            return
        views, logits = self.seen
        self.network.train().requires_grad_(True)
        student = (self.network(views).float() / TEMPERATURE).log_softmax(1)
        loss = F.kl_div(student, (logits / TEMPERATURE).log_softmax(1), reduction="batchmean", log_target=True)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()

    def state_dict(self) -> dict:
        if self.network is None:
            return {}
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        if self.network is not None:
            self.network.load_state_dict(state_dict["network"])
            self.optimiser.load_state_dict(state_dict["optimiser"])


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """Mean Jensen–Shannon divergence of two sets of logits [B, K], in bits: 0 where they agree, 1 where they exclude each other."""
    one, two = first.log_softmax(1), second.log_softmax(1)
    middle = torch.logaddexp(one, two) - math.log(2)
    divergences = [F.kl_div(middle, side, reduction="none", log_target=True).sum(1) for side in (one, two)]
    return (divergences[0] + divergences[1]).mean() / (2 * math.log(2))
