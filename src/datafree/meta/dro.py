"""Fusion of weights: one network from the teachers' weights alone, by a distributionally robust hyper-network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import DroArm
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.errors import UserError
from datafree.meta.learner import Learner
from datafree.progress import progress, require_finite
from datafree.tasks.episodes import Episodes

STATISTICS_BATCHES, STATISTICS_BATCH = 20, 64  # recovered images that BatchNorm's statistics are taken from


class HyperNetwork(nn.Module):
    """From a teacher's embedding [E] to all weights of its network, as one vector [P] in units of their spread across teachers.

    One linear map to all weights is the same as one for every layer. It starts at the teachers' mean weights (zero in these units).
    """

    def __init__(self, teachers: int, weights: int, embedding: int) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(torch.randn(teachers, embedding) / embedding**0.5)
        self.matrix = nn.Parameter(0.01 * torch.randn(weights, embedding))
        self.offset = nn.Parameter(torch.zeros(weights))

    def forward(self, embedding: Tensor) -> Tensor:
        return self.matrix @ embedding + self.offset


def train(
    learner: Learner, ensemble: TeacherEnsemble, episodes: Episodes, arm: DroArm, seed: int, checkpoint: Checkpoint
) -> list[dict[str, float]]:
    """Fill the backbone of ``learner`` with fused weights; Wang et al., "Meta-Learning without Data via Wasserstein
    Distributionally-Robust Model Fusion", UAI 2022.

    As in the paper: learned embeddings of the teachers; a linear hyper-network under a Gaussian likelihood of the teachers' weights; two
    levels of first order, a step on a teacher of one part and the gradient on one of the held-out part; there the embedding is moved
    to where the likelihood is worst, at the price γ ‖e' − e‖²; the fused weights are those of the mean embedding. Otherwise: Adam
    instead of plain SGD; weights in units of their tensor's spread, averaged; backbones only, since heads are of classes; no online
    variant. The paper knows no images: here BatchNorm's running statistics are taken from recovered ones, after the fusion.

    Raises:
        UserError: the teachers or the learner are of different architectures.
    """
    trusted = torch.nonzero(ensemble.sampling_weights > 0).flatten().tolist()
    networks = [ensemble.teachers[index].network.backbone for index in trusted]
    if len({str(network) for network in [*networks, learner.backbone]}) > 1:
        raise UserError(
            "method dro: only networks of one architecture can be fused; expected `backbone` and every teacher to have the same"
        )
    stacked = torch.stack([flat(network) for network in networks])
    centre, spread = stacked.mean(0), spreads(learner.backbone, stacked)
    targets = (stacked - centre) / spread
    with devices.seeded_initialisation(seed):
        hyper = HyperNetwork(len(trusted), stacked.shape[1], arm.embedding).to(stacked.device)
    optimiser = torch.optim.Adam(hyper.parameters(), lr=arm.learning_rate)
    start, history = checkpoint.restore(hyper=hyper, optimiser=optimiser)
    lower, upper = parted(len(trusted), arm.held_out, devices.generator(seed, "dro", "parts"))
    for step in progress(range(start, arm.steps), arm.steps - start, "dro"):
        rng = devices.generator(seed, "dro", step)
        first, second = (part[int(torch.randint(len(part), (), generator=rng))] for part in (lower, upper))
        loss = two_level_gradient(hyper, targets, first, second, arm)
        optimiser.step()
        require_finite("dro", step + 1, loss=loss)
        history.append({"step": step + 1, "loss": loss})
        checkpoint.save(step + 1, history, hyper=hyper, optimiser=optimiser)
    with torch.no_grad():
        fused = centre + spread * hyper(hyper.embeddings.mean(0))
        sizes = [parameter.numel() for parameter in learner.backbone.parameters()]
        for parameter, values in zip(learner.backbone.parameters(), fused.split(sizes), strict=True):
            parameter.copy_(values.view(parameter.shape))
    take_statistics(learner, ensemble, devices.generator(seed, "dro", "statistics"))
    return history


def misfit(hyper: HyperNetwork, embedding: Tensor, target: Tensor) -> Tensor:
    """The negative log-likelihood of a teacher's weights up to constants: the mean squared difference, a scalar."""
    return (hyper(embedding) - target).square().mean()


def worst_embedding(hyper: HyperNetwork, embedding: Tensor, target: Tensor, arm: DroArm) -> Tensor:
    """The e' near e [E] that explains the target worst: normalised ascent steps on misfit(e') − γ ‖e' − e‖²."""
    worst = embedding.detach().clone()
    for _ in range(arm.perturbation_steps):
        worst.requires_grad_()
        objective = misfit(hyper, worst, target) - arm.robustness * (worst - embedding.detach()).square().sum()
        (slope,) = torch.autograd.grad(objective, worst)
        worst = (worst + arm.perturbation * slope / slope.norm().clamp_min(1e-12)).detach()
    return worst


def two_level_gradient(hyper: HyperNetwork, targets: Tensor, first: int, second: int, arm: DroArm) -> float:
    """Leave in ``hyper`` the gradient of the upper level, taken after a step on the lower one; returns the upper misfit."""
    parameters = list(hyper.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    slopes = torch.autograd.grad(misfit(hyper, hyper.embeddings[first], targets[first]), parameters)
    with torch.no_grad():
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter -= arm.learning_rate * slope
    embedding = hyper.embeddings[second]
    moved = embedding + (worst_embedding(hyper, embedding, targets[second], arm) - embedding.detach())
    loss = misfit(hyper, moved, targets[second])
    hyper.zero_grad(set_to_none=True)
    loss.backward()
    with torch.no_grad():
        for parameter, old in zip(parameters, before, strict=True):
            parameter.copy_(old)
    return loss.item()


def flat(network: nn.Module) -> Tensor:
    """All parameters as one float32 vector."""
    return torch.cat([parameter.detach().float().reshape(-1) for parameter in network.parameters()])


def spreads(network: nn.Module, stacked: Tensor) -> Tensor:
    """For every weight the standard deviation across teachers [T, P], pooled over its tensor: [P], at least 1e-8."""
    variances = stacked.var(0, unbiased=False).split([parameter.numel() for parameter in network.parameters()])
    return torch.cat([variance.mean().sqrt().clamp_min(1e-8).expand(len(variance)) for variance in variances])


def parted(count: int, share: float, rng: torch.Generator) -> tuple[list[int], list[int]]:
    """(lower, upper): ``share`` of the indices, at least one, for the upper level; a single index serves both."""
    order = torch.randperm(count, generator=rng).tolist()
    cut = min(max(1, round(share * count)), max(1, count - 1))
    return order[cut:] or order, order[:cut]


@torch.no_grad()
def take_statistics(learner: Learner, ensemble: TeacherEnsemble, rng: torch.Generator) -> None:
    """Replace BatchNorm's running statistics by the means over batches of recovered images of trusted teachers."""
    norms = [module for module in learner.backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
    learner.train()
    pools = [
        pool for pool, sampling_weights in zip(ensemble.pools, ensemble.sampling_weights.tolist(), strict=True) if sampling_weights > 0
    ]
    images = torch.cat([pool.images for pool in pools])
    for _ in range(STATISTICS_BATCHES):
        chosen = images[torch.randint(len(images), (STATISTICS_BATCH,), generator=rng)]
        learner.backbone(ensemble.views(chosen, rng, augment=False))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
