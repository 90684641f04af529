"""Copies of one generator that are trained independently of each other, with one optimiser."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from datafree.inversion.generator import Generator
from datafree.inversion.pixel_parameters import ADAM_STATE
from datafree.zoo.stacks import cast_weights, casting_inputs


class GeneratorCopies:
    """R copies of a generator: ``weights`` by name, each [R, ...]; ``latents`` [R, B, latent] that may be trained with them.

    Adam treats every weight by itself, so that the copies are independent.
    """

    def __init__(
        self, generators: Sequence[Generator], latents: Tensor, learning_rate: float, latent_learning_rate: float | None, *, together: bool
    ) -> None:
        """A copy of each generator, all of one shape, with its row of ``latents``; ``together``: all are computed in one pass."""
        self.template, self.together = copy.deepcopy(generators[0]), together
        self.template.channels_last = not together
        if together:
            casting_inputs(self.template)
        weights = [dict(generator.named_parameters()) for generator in generators]
        self.weights = {name: _stacked([of_one[name].detach() for of_one in weights]) for name in weights[0]}
        self.latents = nn.Parameter(latents)
        groups: list[dict[str, Any]] = [{"params": list(self.weights.values())}]
        if latent_learning_rate:
            groups.append({"params": [self.latents], "lr": latent_learning_rate})
        self.optimiser = torch.optim.Adam(groups, lr=learning_rate, betas=(0.5, 0.999))

    def parameters(self) -> Iterable[nn.Parameter]:
        """The weights, in the order of the generator's parameters."""
        return self.weights.values()

    def __call__(self, latents: Tensor, labels: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Images float [R, B, channels, size, size] in [0, 1] of latents [R, B, latent] and labels int64 [R, B], each by its copy.

        ``rows``: only these copies, one for each row of the latents.
        """
        weights: dict[str, Tensor] = (
            dict(self.weights) if rows is None else {name: value[list(rows)] for name, value in self.weights.items()}
        )
        if self.together:

            def one(of_copy: dict[str, Tensor], latent: Tensor, label: Tensor) -> Tensor:
                return functional_call(self.template, of_copy, (latent, label))

            return torch.vmap(one)(cast_weights(self.template, weights), latents, labels)
        of_rows = [{name: value[row] for name, value in weights.items()} for row in range(len(latents))]
        images = [functional_call(self.template, *given) for given in zip(of_rows, zip(latents, labels, strict=True), strict=True)]
        return torch.stack(images)

    def step(self, loss: Tensor) -> None:
        """One Adam step; the gradients stay set."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()

    def generator(self, row: int) -> Generator:
        """One copy as a module of its own."""
        own = copy.deepcopy(self.template)
        own.channels_last = True
        own.load_state_dict({name: value.detach()[row] for name, value in self.weights.items()})
        return own

    @property
    def _parameters(self) -> dict[str, nn.Parameter]:
        return {**self.weights, "latents": self.latents}

    def state(self, row: int) -> dict[str, dict[str, Tensor]]:
        """Values and Adam's state of one copy and its latents, for a checkpoint."""
        state: dict[str, dict[str, Tensor]] = {}
        for name, parameter in self._parameters.items():
            adam = self.optimiser.state.get(parameter, {})
            state[name] = {"value": parameter.detach()[row], **{key: adam[key] if key == "step" else adam[key][row] for key in adam}}
        return state

    @torch.no_grad()
    def restore(self, states: Sequence[Mapping[str, Mapping[str, Tensor]]]) -> None:
        """Continue from the states of all copies, which were saved after the same step, in their order."""
        for name, parameter in self._parameters.items():
            of_copies = [state[name] for state in states]
            parameter.copy_(torch.stack([part["value"] for part in of_copies]))
            if "step" in of_copies[0]:
                joined = {key: torch.stack([part[key] for part in of_copies]).to(parameter.device) for key in ADAM_STATE[1:]}
                self.optimiser.state[parameter] = {"step": of_copies[0]["step"].clone(), **joined}


def _stacked(values: Sequence[Tensor]) -> nn.Parameter:
    # A single copy keeps the memory format of its weights.
    return nn.Parameter(values[0].clone()[None] if len(values) == 1 else torch.stack(list(values)))
