"""ProxylessNAS: Cai, Zhu and Han, "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware", ICLR 2019.

On synthetic images and the teachers' soft labels; the learned probabilities are those of whole options (paths), through binary gates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from datafree.checkpoints import Checkpoint
from datafree.config import ProxylessConfig
from datafree.devices import generator
from datafree.distillation.joined_pools import JoinedPools
from datafree.distillation.losses import distillation_loss
from datafree.nas.mixing import Path
from datafree.nas.relaxation import Alphas, Relaxed, conclude, weight_optimiser
from datafree.nas.search_result import SearchResult
from datafree.nas.spaces import Genotype, Space
from datafree.nas.training import minimise

ALPHA_BETAS = (0.0, 0.999)


class Gates(NamedTuple):
    """What one step on the architecture compares: per slot the places of some options, and which of them is open."""

    path: Path  # one open gate per slot; the gradient of a gate reaches the weights of its options
    compared: list[Tensor]  # int64 [paths]
    expected: list[Tensor]  # float [options]: every option's probability, differentiable by the weights of the compared ones


def draw_gates(alphas: Alphas, paths: int, rng: torch.Generator) -> Gates:
    """Options to compare drawn by their probability, then one of them, by its share among them, whose gate opens.

    A gate is 1 or 0, and its derivative by the weights that of the share q: then ∂L/∂α_i = Σ_j ∂L/∂g_j q_j (δ_ij − q_i), equation 4 of
    the paper. With two paths only those two are computed (its section 3.2.1).
    """
    path, compared, expected = [], [], []
    for alpha, options in zip(alphas.slots, alphas.space.choices, strict=True):
        probability = alpha.detach().softmax(0)
        some = torch.multinomial(probability.cpu(), min(paths, len(options)), generator=rng).to(alpha.device)
        share = alpha[some].softmax(0)
        opened = int(torch.multinomial(share.detach().cpu(), 1, generator=rng))
        one_hot = torch.zeros_like(share)
        one_hot[opened] = 1
        gates = one_hot + share - share.detach()
        path.append({options[place]: gate for place, gate in zip(some.tolist(), gates.unbind(), strict=True)})
        compared.append(some)
        expected.append(probability.index_copy(0, some, share * probability[some].sum()))
    return Gates(path, compared, expected)


def cost_table(space: Space, cost: Callable[[Genotype], float]) -> tuple[float, list[list[float]]]:
    """The cost of the cheapest architecture, and what each option of each slot adds to it: exact where slots' costs add up."""
    base = space.cheapest()
    whole = cost(base)
    added = [[cost((*base[:slot], option, *base[slot + 1 :])) - whole for option in options] for slot, options in enumerate(space.choices)]
    return whole, added


def expected_cost(table: tuple[float, list[list[float]]], probabilities: list[Tensor]) -> Tensor:
    """The mean cost of an architecture whose slots take their options by these probabilities: a scalar."""
    fixed, added = table
    return fixed + torch.stack([p @ p.new_tensor(costs) for p, costs in zip(probabilities, added, strict=True)]).sum()


@torch.no_grad()
def keep_total(alphas: Alphas, before: list[Tensor], compared: list[Tensor]) -> None:
    """Shift the compared options' weights so that their probability in total is what it was: a step decides among them alone."""
    for alpha, old, some in zip(alphas.slots, before, compared, strict=True):
        alpha[some] += old[some].logsumexp(0) - alpha[some].logsumexp(0)


def search(
    space: Space, pools: JoinedPools, config: ProxylessConfig, key: str, seed: int, device: torch.device | str, checkpoint: Checkpoint
) -> SearchResult:
    """The most probable architecture after ``config.supernet_steps`` steps on the weights, every few followed by one on the architecture;
    or that before it has too many skip connections.

    Half of the training images serve the weights of the network, half those of the architecture; scores come from the held-out ones.

    Raises:
        UserError: the training diverges.
    """
    relaxed = Relaxed(space, pools, config, seed, device)
    supernet, alphas, trajectory, latency = relaxed.supernet, relaxed.alphas, relaxed.trajectory, relaxed.latency
    optimiser, schedule = weight_optimiser(list(supernet.parameters()), config)
    alpha_optimiser = torch.optim.Adam(alphas.parameters(), config.alpha_learning_rate, betas=ALPHA_BETAS)
    states = {"supernet": supernet, "optimiser": optimiser, "schedule": schedule, "latency": latency}
    states |= {"alphas": alphas, "alpha_optimiser": alpha_optimiser, "trajectory": trajectory}
    checkpoint.restore(**states)  # a resumed search goes on with the latencies that it began with
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
        keep_total(alphas, before, gates.compared)

    def loss_of(step: int) -> Tensor:
        if step >= config.warm_up * config.supernet_steps and step % config.alpha_every == 0 and not trajectory.ended:
            alpha_step(step)
        rng = generator(seed, "path", step)
        drawn = [torch.multinomial(p.detach().cpu(), 1, generator=rng).item() for p in alphas.probabilities()]
        return loss("weights", step, tuple(options[int(place)] for options, place in zip(space.choices, drawn, strict=True)))

    def describe(step: int) -> dict[str, float]:
        skips = relaxed.note(step)
        expected = expected_cost(table, [p.detach() for p in alphas.probabilities()])
        return {"entropy": alphas.entropy(), "skips": skips, f"expected_{config.cost}": expected.item()}

    curve = minimise(loss_of, config.supernet_steps, optimiser, schedule, "ProxylessNAS", checkpoint, states, describe)
    final = {f"expected_{config.cost}": curve[-1][f"expected_{config.cost}"]}
    return conclude(relaxed, curve, final)
