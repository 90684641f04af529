"""Task stacks: a network in training mode computed for several tasks in one pass, with BatchNorm statistics of each task's own.

On a GPU this replaces many small kernels by few large ones; on a CPU a loop over the tasks is faster. ``torch.vmap`` over BatchNorm in
training mode has wrong second derivatives, so that the layers are replaced by elementary operations.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from datafree import devices
from datafree.meta.learner import Learner
from datafree.zoo.backbones import Backbone
from datafree.zoo.hooks import output_sizes
from datafree.zoo.logits import at_least_float32
from datafree.zoo.stacks import cast_weights, casting_inputs, mapped

FREE_SHARE = 0.5  # of the free memory, for the outputs of layers that a step keeps
COPIES = 4  # of every layer's output in a step: value, gradient, and both of the inner gradient
BYTES = 4  # of a float32


class TaskBatchNorm(nn.Module):
    """``nn.BatchNorm2d`` in training mode as elementary operations; it keeps the statistics of a pass instead of averaging them.

    With ``fixed`` it normalises by the statistics that it kept last.
    """

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        self.statistics: list[tuple[Tensor, Tensor]] = []  # mean and unbiased variance [C] of the last pass
        self.fixed = False

    def forward(self, images: Tensor) -> Tensor:
        values = at_least_float32(images)
        if self.fixed:
            mean, variance = (kept[:, None, None] for kept in self.statistics[-1])
            centred = values - mean
        else:
            mean = values.mean((0, 2, 3), keepdim=True)
            centred = values - mean
            variance = centred.square().mean((0, 2, 3), keepdim=True)
            count = images.numel() // images.shape[1]
            self.statistics[:] = [(mean.detach().flatten(), variance.detach().flatten() * count / max(count - 1, 1))]
        normalised = centred * (variance + self.eps).rsqrt()
        if self.weight is None:
            return normalised.to(images.dtype)
        return normalised * self.weight[:, None, None] + self.bias[:, None, None]


class TaskStack:
    """A network, a learner or its backbone, whose passes are computed for T tasks at once.

    Its running statistics change only by ``update_running_statistics``. Random layers such as dropout draw other numbers than in a loop.
    """

    def __init__(self, network: Learner | Backbone) -> None:
        self.network = network
        self.backbone = network.backbone if isinstance(network, Learner) else network
        self._image_bytes: int | None = None
        self.template = copy.deepcopy(network)
        self._layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)}
        self._norms = {name: TaskBatchNorm(layer) for name, layer in self.template.named_modules() if isinstance(layer, nn.BatchNorm2d)}
        for name, norm in self._norms.items():
            self.template.set_submodule(name, norm)
        casting_inputs(self.template)
        self._passes: list[dict[str, tuple[Tensor, Tensor]]] = []

    @classmethod
    def of(cls, network: Learner | Backbone, together: bool) -> TaskStack | None:
        """The stack of a network if ``together``; None if not, or if it has BatchNorm of another kind than ``nn.BatchNorm2d``."""
        norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
        return cls(network) if together and all(type(norm) is nn.BatchNorm2d for norm in norms) else None

    def weights(self, tasks: int) -> dict[str, Tensor]:
        """The network's parameters by name, each [tasks, ...]; gradients of a task's weights are summed up to that of the parameter."""
        return {name: parameter.expand(tasks, *parameter.shape) for name, parameter in self.network.named_parameters()}

    def __call__(self, compute: Callable[..., Any], weights: Mapping[str, Tensor] | None, *inputs: Tensor | None) -> Any:
        """``compute(network, *inputs)`` for all tasks: tensors [T, ...] in place of the tensors that it returns for one.

        ``inputs`` are [T, ...] or None. ``network`` is called as the stack's network; its weights are ``weights`` by name, each [T, ...],
        or for None the parameters, for all tasks.
        """

        def one(weights: dict[str, Tensor], *given: Tensor | None) -> tuple[Any, dict[str, tuple[Tensor, Tensor]]]:
            result = compute(lambda *arguments: functional_call(self.template, weights, arguments), *given)
            return result, {name: norm.statistics.pop() for name, norm in self._norms.items() if norm.statistics}

        values = dict(self.network.named_parameters()) if weights is None else weights
        in_dims = (None if weights is None else 0, *(None if given is None else 0 for given in inputs))
        result, statistics = mapped(one, in_dims, "different")(cast_weights(self.template, values), *inputs)
        self._passes.append(statistics)
        return result

    @contextlib.contextmanager
    def statistics_of_last_pass(self) -> Iterator[None]:
        """Inside a ``compute``: BatchNorm normalises by the statistics of the pass before, with the unbiased variance.

        This is what a network in evaluation mode does after a pass in training mode with a momentum of 1.
        """
        for norm in self._norms.values():
            norm.fixed = True
        try:
            yield
        finally:
            for norm in self._norms.values():
                norm.fixed = False

    @torch.no_grad()
    def update_running_statistics(self, *, task_by_task: bool) -> None:
        """Average the last statistics of every call since the last update into the network's, in the order of a loop.

        That order is one task after the other with all its passes, or, without ``task_by_task``, one pass after the other.
        """
        for name, layer in self._layers.items():
            passes = [of_pass[name] for of_pass in self._passes if name in of_pass]
            if not passes or layer.running_mean is None or layer.running_var is None or layer.num_batches_tracked is None:
                continue
            assert layer.momentum is not None, "a plain average over batches has no fixed weights"
            for running, kept in zip((layer.running_mean, layer.running_var), zip(*passes, strict=True), strict=True):
                values = torch.stack(kept, 1 if task_by_task else 0).flatten(0, 1)
                ages = torch.arange(len(values) - 1, -1, -1, device=values.device, dtype=values.dtype)
                weights = layer.momentum * (1 - layer.momentum) ** ages
                running.mul_((1 - layer.momentum) ** len(values)).add_((weights[:, None] * values).sum(0))
            layer.num_batches_tracked += len(passes) * len(passes[0][0])
        self._passes = []

    def forget_statistics(self) -> None:
        """Leave the statistics of the calls since the last update out of the running statistics."""
        self._passes = []

    def tasks_that_fit(self, images: Tensor, passes: int) -> int:
        """How many tasks of ``images`` [B, C, H, W] the memory of their device holds, at least one, for a step of so many passes."""
        if self._image_bytes is None:
            self._image_bytes = COPIES * BYTES * sum(output_sizes(copy.deepcopy(self.backbone).eval(), images[:1]))
        return max(1, int(FREE_SHARE * devices.free_bytes(images.device) / (passes * len(images) * self._image_bytes)))
