"""Task grouping of TGR (Wei et al., ICML 2024, arXiv 2405.16560): groups of dissimilar teachers by Task2Vec and spectral clustering."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from datafree import devices
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.meta.adaptation import fit_head, linear
from datafree.tasks.episodes import Episodes
from datafree.tasks.pools import Pool, balanced_rows
from datafree.zoo.backbones import Backbone
from datafree.zoo.stacks import mapped
from datafree.zoo.teachers import Teacher

IMAGES = 60  # of a pool, for its embedding; each costs a backward pass on one image
IMAGES_TOGETHER = 20  # each has a gradient as large as the network
HEAD_STEPS, HEAD_LEARNING_RATE = 50, 0.5  # of a new head on unit-length features: the probe has no head for the pool's classes


def grouped_tasks(ensemble: TeacherEnsemble, episodes: Episodes, count: int, seed: int) -> list[Tensor]:
    """The indices of the tasks of a single teacher, int64, in at most ``count`` groups of dissimilar teachers; no group is empty.

    The probe network is the teacher with the highest sampling weight (the first of equal ones); the paper uses an ImageNet network.
    """
    tasks = torch.nonzero((episodes.teacher == episodes.teacher[:, :1]).all(1)).flatten()
    present = episodes.teacher[tasks, 0].unique().tolist()
    probe = ensemble.teachers[int(ensemble.sampling_weights.argmax())]
    embeddings = task_embeddings(probe, [ensemble.pools[index] for index in present], seed, ensemble.device, together=ensemble.together)
    group_of = dict(zip(present, dissimilar_groups(dissimilarity(embeddings), count, seed), strict=True))
    group = torch.tensor([group_of[index] for index in episodes.teacher[tasks, 0].tolist()])
    return [tasks[group == number] for number in group.unique().tolist()]


def task_embeddings(probe: Teacher, pools: Sequence[Pool], seed: int, device: torch.device, *, together: bool = False) -> Tensor:
    """The diagonal Fisher information of each pool under the probe network, per channel: float64 [pools, D], at least 0.

    ``together``: the gradients of several images are computed in one pass.
    Achille et al., "Task2Vec", ICCV 2019: a new head is fitted to the pool's labels on the probe's features; then the squared gradients of
    the log-likelihood are averaged over images and over the weights of each output channel.
    """
    backbone = copy.deepcopy(probe.network.backbone).to(device).eval().requires_grad_()
    parameters = list(backbone.parameters())
    embeddings = []
    for index, pool in enumerate(pools):
        rows = balanced_rows(pool.labels, IMAGES, devices.generator(seed, "task embedding", index))
        with torch.autocast(device.type, enabled=False):
            views, labels = (devices.moved(part[rows], device) for part in (pool.images, pool.labels))
            views = probe.normalise(views)
            with torch.no_grad():
                features = F.normalize(backbone(views), dim=1)
            head = fit_head(features, labels, len(pool.classes), HEAD_LEARNING_RATE, HEAD_STEPS)
            fisher = [torch.zeros(len(parameter), dtype=torch.float64, device=device) for parameter in parameters]
            size = IMAGES_TOGETHER if together else 1
            for of_views, of_labels in zip(views.split(size), labels.split(size), strict=True):
                for total, gradients in zip(fisher, _gradients_of_images(backbone, of_views, of_labels, head, together), strict=True):
                    squares = gradients.square()
                    total += (squares.flatten(2).mean(2) if squares.ndim > 2 else squares).double().sum(0)
        embeddings.append(torch.cat(fisher) / len(rows))
    return torch.stack(embeddings).cpu()


def _gradients_of_images(backbone: Backbone, views: Tensor, labels: Tensor, head: tuple[Tensor, Tensor], together: bool) -> list[Tensor]:
    """The gradients [B, ...] of the negative log-likelihood of each of B images with respect to each parameter of the backbone."""
    if not together:
        losses = [
            F.cross_entropy(linear(F.normalize(backbone(view), dim=1), head), label)
            for view, label in zip(views.split(1), labels.split(1), strict=True)
        ]
        gradients = [torch.autograd.grad(loss, list(backbone.parameters())) for loss in losses]
        return [torch.stack(of_parameter) for of_parameter in zip(*gradients, strict=True)]
    weights = {name: parameter.expand(len(views), *parameter.shape) for name, parameter in backbone.named_parameters()}
    features = mapped(lambda of_image, view: functional_call(backbone, of_image, (view[None],))[0], (0, 0))(weights, views)
    loss = F.cross_entropy(linear(F.normalize(features, dim=1), head), labels, reduction="sum")
    return list(torch.autograd.grad(loss, list(weights.values())))


def dissimilarity(embeddings: Tensor) -> Tensor:
    """One minus the cosine of every pair of non-negative embeddings [T, D]: [T, T] in [0, 1], 0 on the diagonal."""
    unit = F.normalize(embeddings, dim=1)
    return (1 - unit @ unit.T).clamp(0, 1).fill_diagonal_(0)


def dissimilar_groups(distances: Tensor, count: int, seed: int) -> list[int]:
    """The group, 0 to ``count`` − 1, of each of T teachers: spectral clustering with the distances [T, T] as affinities.

    Ng, Jordan and Weiss, NIPS 2001: k-means on the rows of the leading eigenvectors of the normalised affinities. Because distances take
    the place of similarities, dissimilar teachers share a group. Groups may be empty. With at most ``count`` teachers, each is a group.
    """
    from scipy.cluster.vq import kmeans2  # imported here because it takes half a second, and only one method needs it

    if count >= len(distances):
        return list(range(len(distances)))
    scale = distances.sum(1).clamp_min(torch.finfo(distances.dtype).tiny).rsqrt()
    _, vectors = torch.linalg.eigh(scale[:, None] * distances * scale)
    rows = F.normalize(vectors[:, -count:], dim=1)
    with warnings.catch_warnings(action="ignore"):  # of empty groups
        _, labels = kmeans2(rows.numpy(), count, minit="++", rng=devices.derive_seed(seed, "groups"))
    return labels.tolist()
