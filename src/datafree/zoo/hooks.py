"""Forward hooks: observe the inputs or outputs of chosen layers during forward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Observer = Callable[[nn.Module, Tensor], None]  # the layer, and its first input or its output


class LayerHooks:
    """Call ``observe`` for each of ``layers`` in every forward pass inside a ``with`` block; the hooks are removed at its end.

    ``observe`` gets the layer and its first input, or with ``outputs`` its output.
    """

    def __init__(self, layers: Iterable[nn.Module], observe: Observer, *, outputs: bool = False) -> None:
        self.layers = list(layers)
        self.observe = observe
        self.outputs = outputs
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> LayerHooks:
        if self.outputs:
            self._handles = [layer.register_forward_hook(self._observe_output) for layer in self.layers]
        else:
            self._handles = [layer.register_forward_pre_hook(self._observe_input) for layer in self.layers]
        return self

    def _observe_output(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.observe(layer, output)

    def _observe_input(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.observe(layer, inputs[0])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


@torch.no_grad()
def output_sizes(network: nn.Module, inputs: Tensor) -> list[int]:
    """The number of values of every layer's output in a pass; layers are the modules without children."""
    sizes: list[int] = []

    def count(layer: nn.Module, output: Tensor) -> None:
        sizes.append(output.numel())

    with LayerHooks([module for module in network.modules() if not list(module.children())], count, outputs=True):
        network(inputs)
    return sizes
