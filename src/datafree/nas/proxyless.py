"""ProxylessNAS on recovered images: architecture weights learned through binary gates, with an expected cost in the loss.

Cai, Zhu and Han, "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware", ICLR 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import ProxylessConfig
from datafree.devices import generator
from datafree.distillation.joined_pools import JoinedPools
from datafree.distillation.losses import distillation_loss
from datafree.nas.relaxation import Alphas, RelaxedSearch, weight_optimiser
from datafree.nas.search_result import SearchResult
from datafree.nas.slots import Path
from datafree.nas.space import Genotype, Space
from datafree.nas.training import minimise

ALPHA_BETAS = (0.0, 0.999)


class Gates(NamedTuple):
    """The sampled binary gates of one architecture step: for each slot the compared options, one of which has an open gate."""

    path: Path  # one open gate per slot; gradients of gates reach the architecture weights of the compared options
    compared: list[Tensor]  # int64 [paths] per slot: indices of the compared options
    expected: list[Tensor]  # float [options] per slot: all probabilities, differentiable with respect to the compared options' weights


def draw_gates(alphas: Alphas, paths: int, rng: torch.Generator) -> Gates:
    """Sample ``paths`` options per slot by their probability, then open the gate of one of them by its renormalised probability q.

    A gate is 1 or 0 and has the derivative of q: ∂L/∂α_i = Σ_j ∂L/∂g_j q_j (δ_ij − q_i), equation 4 of the paper. With two paths only
    these two are computed (section 3.2.1).
    """
    path, compared, expected = [], [], []
    for alpha, values, options in zip(alphas.slots, on_cpu(list(alphas.slots)), alphas.space.choices, strict=True):
        chosen = torch.multinomial(values.softmax(0), min(paths, len(options)), generator=rng)
        opened = torch.multinomial(values[chosen].softmax(0), 1, generator=rng)
        sampled, one_hot = devices.moved(chosen, alpha.device), F.one_hot(opened[0], len(chosen)).to(values.dtype)
        share, probability = alpha[sampled].softmax(0), alpha.detach().softmax(0)
        gates = devices.moved(one_hot, alpha.device) + share - share.detach()
        path.append({options[index]: gate for index, gate in zip(chosen.tolist(), gates.unbind(), strict=True)})
        compared.append(sampled)
        expected.append(probability.index_copy(0, sampled, share * probability[sampled].sum()))
    return Gates(path, compared, expected)


def on_cpu(values: list[Tensor]) -> list[Tensor]:
    """Tensors [options] of every slot on the CPU, without gradients; read at once, because each read waits for a GPU."""
    return list(torch.cat([value.detach() for value in values]).cpu().split([len(value) for value in values]))


def cost_table(space: Space, cost: Callable[[Genotype], float]) -> tuple[float, list[list[float]]]:
    """The cost of the cheapest architecture, and the change of cost by each option of each slot: exact if the cost is a sum over slots."""
    base = space.cheapest()
    fixed = cost(base)
    added = [[cost((*base[:slot], option, *base[slot + 1 :])) - fixed for option in options] for slot, options in enumerate(space.choices)]
    return fixed, added


def expected_cost(table: tuple[float, list[list[float]]], probabilities: list[Tensor]) -> Tensor:
    """The expected cost of an architecture with these probabilities (float [options] per slot): a scalar."""
    fixed, added = table
    return fixed + torch.stack([p @ p.new_tensor(costs) for p, costs in zip(probabilities, added, strict=True)]).sum()


@torch.no_grad()
def restore_total(alphas: Alphas, before: list[Tensor], compared: list[Tensor]) -> None:
    """Shift the compared options' weights so that a step leaves their total probability, and that of all others, unchanged."""
    for alpha, old, sampled in zip(alphas.slots, before, compared, strict=True):
        alpha[sampled] += old[sampled].logsumexp(0) - alpha[sampled].logsumexp(0)


def search(
    space: Space, pools: JoinedPools, config: ProxylessConfig, key: str, seed: int, device: torch.device | str, checkpoint: Checkpoint
) -> SearchResult:
    """The most probable architecture after ``config.supernet_steps`` steps, or the last one with at most ``config.max_skips`` skips.

    Every ``config.alpha_every`` steps on the network's weights there is one on the architecture weights. Half of the training images train
    the former, the other half the latter; held-out images give the scores.

    Raises:
        UserError: the training diverges.
    """
    relaxed = RelaxedSearch(space, pools, config, seed, device)
    supernet, alphas, trajectory, latency = relaxed.supernet, relaxed.alphas, relaxed.trajectory, relaxed.latency
    optimiser, schedule = weight_optimiser(list(supernet.parameters()), config)
    alpha_optimiser = torch.optim.Adam(alphas.parameters(), config.alpha_learning_rate, betas=ALPHA_BETAS)
    states = {"supernet": supernet, "optimiser": optimiser, "schedule": schedule, "latency": latency}
    states |= {"alphas": alphas, "alpha_optimiser": alpha_optimiser, "trajectory": trajectory}
    checkpoint.restore(**states)  # latencies measured before an interruption are not measured again
    if config.cost == "latency" and not latency:
        latency.measure(space, supernet, device)
    table = cost_table(space, latency.of if config.cost == "latency" else space.macs)

    def loss(part: str, step: int, path: Path) -> Tensor:
        batch = relaxed.batch(part, step)
        return distillation_loss(supernet(batch.images, path, batch.teacher), batch.soft_labels, config.temperature)

    def alpha_step(step: int) -> None:
        gates = draw_gates(alphas, config.paths, generator(seed, "gates", step))
        distance = expected_cost(table, gates.expected) / config.cost_target - 1
        before = [alpha.detach().clone() for alpha in alphas.slots]
        gradients = torch.autograd.grad(
            loss("alphas", step, gates.path) + config.cost_weight * distance, list(alphas.slots), allow_unused=True, materialize_grads=True
        )
        for alpha, gradient in zip(alphas.slots, gradients, strict=True):
            alpha.grad = gradient
        alpha_optimiser.step()
        restore_total(alphas, before, gates.compared)

    def loss_of(step: int) -> Tensor:
        if step >= config.warm_up * config.supernet_steps and step % config.alpha_every == 0 and not trajectory.ended:
            alpha_step(step)
        rng = generator(seed, "path", step)
        sampled = [torch.multinomial(p, 1, generator=rng).item() for p in on_cpu(alphas.probabilities())]
        return loss("weights", step, tuple(options[int(index)] for options, index in zip(space.choices, sampled, strict=True)))

    def describe(step: int) -> dict[str, float]:
        skips = relaxed.record(step)
        expected = expected_cost(table, [p.detach() for p in alphas.probabilities()])
        return {"entropy": alphas.entropy(), "skips": skips, f"expected_{config.cost}": expected.item()}

    curve = minimise(loss_of, config.supernet_steps, optimiser, schedule, "ProxylessNAS", checkpoint, states, describe)
    return relaxed.result(curve, {f"expected_{config.cost}": curve[-1][f"expected_{config.cost}"]})
