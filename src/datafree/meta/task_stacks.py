"""Task stacks: a network in training mode computed for several tasks in one pass, with BatchNorm statistics of each task's own.

On a GPU this replaces many small kernels by few large ones; on a CPU a loop over the tasks is faster. ``torch.vmap`` over BatchNorm in
training mode has wrong second derivatives, so that the layers are replaced.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from datafree import devices
from datafree.meta.learner import Learner
from datafree.zoo.backbones import Backbone
from datafree.zoo.hooks import output_sizes
from datafree.zoo.logits import at_least_float32
from datafree.zoo.stacks import cast_weights, casting_inputs, mapped

Task = TypeVar("Task")

FREE_SHARE = 0.5  # of the free memory, for the outputs of layers that a step keeps
COPIES = 4  # of every layer's output in a step: value, gradient, and both of the inner gradient
BYTES = 4  # of a float32


class TaskBatchNorm(nn.Module):
    """``nn.BatchNorm2d`` in training mode for several tasks under ``torch.vmap``, each with statistics of its own.

    ``statistics`` are mean and unbiased variance [T, C] of the last pass. With ``fixed`` it normalises by them.
    """

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        self.statistics: tuple[Tensor, Tensor] | None = None
        self.fixed = False

    def forward(self, images: Tensor) -> Tensor:
        return _MergedBatchNorm.apply(at_least_float32(images), self.weight, self.bias, self)


class _MergedBatchNorm(torch.autograd.Function):
    """BatchNorm of T tasks as one of T · C channels, outside ``torch.vmap``, so that its second derivatives are PyTorch's own."""

    @staticmethod
    def forward(images: Tensor, weight: Tensor | None, bias: Tensor | None, norm: TaskBatchNorm) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise TypeError("expected a pass under torch.vmap; use the network itself for a single task")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing: the derivatives are those of the operations in ``vmap``."""

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: tuple[int | None, ...], images: Tensor, weight: Tensor | None, bias: Tensor | None, norm: TaskBatchNorm
    ) -> tuple[Tensor, int]:
        """The output [B, T, C, H, W], with the tasks in the second dimension."""
        assert in_dims[0] is not None
        merged = images.movedim(in_dims[0], 1).flatten(1, 2)
        affine = [
            values if values is None else (values.expand(info.batch_size, -1) if dim is None else values.movedim(dim, 0)).flatten()
            for values, dim in zip((weight, bias), in_dims[1:3], strict=True)
        ]
        if norm.fixed:
            assert norm.statistics is not None
            mean, variance = (values.flatten() for values in norm.statistics)
        else:
            mean, variance = merged.new_zeros(2, merged.shape[1])
            norm.statistics = mean.view(info.batch_size, -1), variance.view(info.batch_size, -1)
        # In training mode a momentum of 1 replaces mean and variance by those of the batch.
        normalised = F.batch_norm(merged, mean, variance, *affine, training=not norm.fixed, momentum=1.0, eps=norm.eps)
        return normalised.unflatten(1, (info.batch_size, -1)), 1


def can_be_stacked(network: nn.Module) -> bool:
    """Whether all BatchNorm layers of a network are ``nn.BatchNorm2d``, of which ``TaskStack`` has a form for several tasks."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    return all(type(norm) is nn.BatchNorm2d for norm in norms)


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
        """The stack of a network if ``together``; None if not, or if its layers cannot be stacked."""
        return cls(network) if together and can_be_stacked(network) else None

    def weights(self, tasks: int) -> dict[str, Tensor]:
        """The network's parameters by name, each [tasks, ...]; gradients of a task's weights are summed up to that of the parameter."""
        return {name: parameter.expand(tasks, *parameter.shape) for name, parameter in self.network.named_parameters()}

    def __call__(self, compute: Callable[..., Any], weights: Mapping[str, Tensor] | None, *inputs: Tensor | None) -> Any:
        """``compute(network, *inputs)`` for all tasks: tensors [T, ...] in place of the tensors that it returns for one.

        ``inputs`` are [T, ...] or None. ``network`` is called as the stack's network; its weights are ``weights`` by name, each [T, ...],
        or for None the parameters, for all tasks.
        """

        def one(weights: dict[str, Tensor], *given: Tensor | None) -> Any:
            return compute(lambda *arguments: functional_call(self.template, weights, arguments), *given)

        values = dict(self.network.named_parameters()) if weights is None else weights
        in_dims = (None if weights is None else 0, *(None if given is None else 0 for given in inputs))
        result = mapped(one, in_dims, "different")(cast_weights(self.template, values), *inputs)
        self._passes.append({name: norm.statistics for name, norm in self._norms.items() if norm.statistics})
        for norm in self._norms.values():
            norm.statistics = None
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
        shares: dict[tuple[float, int], Tensor] = {}
        for name, layer in self._layers.items():
            passes = [of_pass[name] for of_pass in self._passes if name in of_pass]
            if not passes or layer.running_mean is None or layer.running_var is None or layer.num_batches_tracked is None:
                continue
            assert layer.momentum is not None, "a plain average over batches has no fixed weights"
            momentum, count = layer.momentum, len(passes) * len(passes[0][0])
            if (momentum, count) not in shares:
                of_each = [momentum * (1 - momentum) ** age for age in reversed(range(count))]
                shares[momentum, count] = devices.moved(torch.tensor(of_each, dtype=layer.running_mean.dtype), layer.running_mean.device)
            for running, kept in zip((layer.running_mean, layer.running_var), zip(*passes, strict=True), strict=True):
                values = torch.stack(kept, 1 if task_by_task else 0).flatten(0, 1)
                running.addmv_(values.T, shares[momentum, count], beta=(1 - momentum) ** count)
            layer.num_batches_tracked += count
        self._passes = []

    def forget_statistics(self) -> None:
        """Leave the statistics of the calls since the last update out of the running statistics."""
        self._passes = []

    def parts(self, tasks: Sequence[Task], images: Tensor, passes: int) -> Iterator[Sequence[Task]]:
        """Consecutive parts of the tasks, each of as many as ``tasks_that_fit``."""
        most = self.tasks_that_fit(images, passes)
        return (tasks[first : first + most] for first in range(0, len(tasks), most))

    def tasks_that_fit(self, images: Tensor, passes: int) -> int:
        """How many tasks of ``images`` [B, C, H, W] the memory of their device holds, at least one, for a step of so many passes."""
        if self._image_bytes is None:
            self._image_bytes = COPIES * BYTES * sum(output_sizes(copy.deepcopy(self.backbone).eval(), images[:1]))
        return max(1, int(FREE_SHARE * devices.free_bytes(images.device) / (passes * len(images) * self._image_bytes)))
