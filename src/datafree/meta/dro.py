"""DRO weight fusion: one network from the teachers' weights alone, by a distributionally robust hyper-network."""

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

STATISTICS_BATCHES, STATISTICS_BATCH = 20, 64  # of recovered images, for BatchNorm's running statistics


class HyperNetwork(nn.Module):
    """A teacher's embedding [E] → all weights of its network as one vector [P], standardised across teachers.

    One linear map to all weights is equivalent to one per layer. Initially it gives about the teachers' mean weights (zero in these units).
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

    As in the paper: learned embeddings of the teachers; a linear hyper-network under a Gaussian likelihood of the teachers' weights; a
    first-order bi-level update, a step on a teacher of the lower part and then the gradient on one of the held-out upper part; in the
    latter the embedding e is replaced by the e' of the lowest likelihood, with penalty γ ‖e' − e‖²; the fused weights are those of the
    mean embedding. Unlike the paper: Adam instead of plain SGD; weights standardised per tensor and the likelihood averaged over them;
    backbones only, because heads belong to classes; no online variant. The paper uses no images: here recovered images provide BatchNorm's
    running statistics after the fusion.

    Raises:
        UserError: the teachers or the learner are of different architectures.
    """
    used = torch.nonzero(ensemble.sampling_weights > 0).flatten().tolist()
    networks = [ensemble.teachers[index].network.backbone for index in used]
    if len({str(network) for network in [*networks, learner.backbone]}) > 1:
        raise UserError(
            "method dro: only networks of one architecture can be fused; expected `backbone` and every teacher to have the same"
        )
    stacked = torch.stack([flat_parameters(network) for network in networks])
    mean, deviation = stacked.mean(0), tensor_deviations(learner.backbone, stacked)
    targets = (stacked - mean) / deviation
    with devices.seeded_initialisation(seed):
        hyper = HyperNetwork(len(used), stacked.shape[1], arm.embedding).to(stacked.device)
    optimiser = torch.optim.Adam(hyper.parameters(), lr=arm.learning_rate)
    start, history = checkpoint.restore(hyper=hyper, optimiser=optimiser)
    lower, upper = split_indices(len(used), arm.held_out, devices.generator(seed, "dro", "parts"))
    for step in progress(range(start, arm.steps), arm.steps - start, "dro"):
        rng = devices.generator(seed, "dro", step)
        first, second = (part[int(torch.randint(len(part), (), generator=rng))] for part in (lower, upper))
        loss = bilevel_gradient(hyper, targets, first, second, arm)
        optimiser.step()
        require_finite("dro", step + 1, loss=loss)
        history.append({"step": step + 1, "loss": loss})
        checkpoint.save(step + 1, history, hyper=hyper, optimiser=optimiser)
    with torch.no_grad():
        fused = mean + deviation * hyper(hyper.embeddings.mean(0))
        sizes = [parameter.numel() for parameter in learner.backbone.parameters()]
        for parameter, values in zip(learner.backbone.parameters(), fused.split(sizes), strict=True):
            parameter.copy_(values.view(parameter.shape))
    set_running_statistics(learner, ensemble, devices.generator(seed, "dro", "statistics"))
    return history


def negative_log_likelihood(hyper: HyperNetwork, embedding: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood of a teacher's standardised weights [P], up to constants: the mean squared difference, a scalar."""
    return (hyper(embedding) - target).square().mean()


def worst_embedding(hyper: HyperNetwork, embedding: Tensor, target: Tensor, arm: DroArm) -> Tensor:
    """The e' near e [E] of the lowest likelihood: normalised gradient ascent on ``negative_log_likelihood``(e') − γ ‖e' − e‖²."""
    worst = embedding.detach().clone()
    for _ in range(arm.perturbation_steps):
        worst.requires_grad_()
        objective = negative_log_likelihood(hyper, worst, target) - arm.robustness * (worst - embedding.detach()).square().sum()
        (gradient,) = torch.autograd.grad(objective, worst)
        worst = (worst + arm.perturbation * gradient / gradient.norm().clamp_min(1e-12)).detach()
    return worst


def bilevel_gradient(hyper: HyperNetwork, targets: Tensor, first: int, second: int, arm: DroArm) -> float:
    """Set the gradients of ``hyper`` to those of the upper level (teacher ``second``) after an SGD step on the lower one (``first``).

    The parameters are restored. Returns the upper level's loss.
    """
    parameters = list(hyper.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    gradients = torch.autograd.grad(negative_log_likelihood(hyper, hyper.embeddings[first], targets[first]), parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= arm.learning_rate * gradient
    embedding = hyper.embeddings[second]
    perturbed = embedding + (worst_embedding(hyper, embedding, targets[second], arm) - embedding.detach())
    loss = negative_log_likelihood(hyper, perturbed, targets[second])
    hyper.zero_grad(set_to_none=True)
    loss.backward()
    with torch.no_grad():
        for parameter, old in zip(parameters, before, strict=True):
            parameter.copy_(old)
    return loss.item()


def flat_parameters(network: nn.Module) -> Tensor:
    """All parameters as one float32 vector."""
    return torch.cat([parameter.detach().float().reshape(-1) for parameter in network.parameters()])


def tensor_deviations(network: nn.Module, stacked: Tensor) -> Tensor:
    """Standard deviation of every weight across teachers, ``stacked`` [T, P], pooled over its tensor: [P], at least 1e-8."""
    variances = stacked.var(0, unbiased=False).split([parameter.numel() for parameter in network.parameters()])
    return torch.cat([variance.mean().sqrt().clamp_min(1e-8).expand(len(variance)) for variance in variances])


def split_indices(count: int, share: float, rng: torch.Generator) -> tuple[list[int], list[int]]:
    """(lower, upper), a random split of ``count`` indices: ``share`` of them in upper, at least one in each; a single index is in both."""
    order = torch.randperm(count, generator=rng).tolist()
    cut = min(max(1, round(share * count)), max(1, count - 1))
    return order[cut:] or order, order[:cut]


@torch.no_grad()
def set_running_statistics(learner: Learner, ensemble: TeacherEnsemble, rng: torch.Generator) -> None:
    """Replace BatchNorm's running statistics by means over batches of recovered images of the teachers that are not dropped."""
    norms = [module for module in learner.backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
    learner.train()
    pools = [pool for pool, weight in zip(ensemble.pools, ensemble.sampling_weights.tolist(), strict=True) if weight > 0]
    images = devices.resident(torch.cat([pool.images for pool in pools]), ensemble.device)
    for _ in range(STATISTICS_BATCHES):
        batch = devices.rows(images, torch.randint(len(images), (STATISTICS_BATCH,), generator=rng), ensemble.device)
        learner.backbone(ensemble.views(batch, rng, augment=False))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
