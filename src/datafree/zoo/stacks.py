"""Network stacks: classifiers of one architecture whose weights are stacked, so that one forward pass computes all of them.

On a GPU this replaces many small kernels by few large ones. On a CPU grouped convolutions are slower than a loop over the networks.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from datafree.zoo.backbones import Backbone, Classifier, batch_norm_layers
from datafree.zoo.logits import ABSENT, at_least_float32

Module = TypeVar("Module", bound=nn.Module)
Observation = Callable[[nn.Module, Tensor], Tensor]  # of a layer and its input

LAYERS_OF_AUTOCAST = (nn.Conv2d, nn.Linear)  # the layers of the backbones and generators that autocast computes in lower precision


@dataclass(frozen=True)
class NetworkStack:
    """T frozen classifiers of one architecture in evaluation mode, on one device; their numbers of classes may differ.

    A pass can be compiled by ``torch.compile``.

    Attributes:
        template: the common backbone, without values (on the device "meta"). Inside a pass its parameters and buffers are those of the
            networks, and forward hooks of its layers are called once for all networks, under ``torch.vmap``.
        state: parameters and buffers of the backbones by name, each [T, ...].
        head_weight: [T, K, D] for the largest number of classes K, 0 beyond a network's classes.
        head_bias: [T, K], 0 where the architecture's head has no bias.
        absent: bool [T, K], true beyond a network's classes.
        seen: what the layers of ``template`` have been seen with in the current pass; empty outside of it.
    """

    template: Backbone
    state: dict[str, Tensor]
    head_weight: Tensor
    head_bias: Tensor
    absent: Tensor
    seen: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, networks: Sequence[Classifier], observe: Observation | None = None) -> NetworkStack:
        """The networks' stack, in their order; it has copies of their weights, without gradients.

        ``observe`` makes of each BatchNorm layer with running statistics, and its input, what ``observed`` returns.

        Raises:
            ValueError: no networks, or networks of different architectures (see ``stackable``).
        """
        if len(stackable(networks)) != 1:
            raise ValueError(f"expected networks of one architecture, got {len(stackable(networks))} architectures")
        state = {name: value for part in stack_module_state([network.backbone for network in networks]) for name, value in part.items()}
        heads = [network.head for network in networks]
        most = max(head.out_features for head in heads)
        biases = [head.weight.new_zeros(head.out_features) if head.bias is None else head.bias for head in heads]
        weight = torch.stack([F.pad(head.weight, (0, 0, 0, most - head.out_features)) for head in heads])
        bias = torch.stack([F.pad(bias, (0, most - len(bias))) for bias in biases])
        classes = torch.tensor([head.out_features for head in heads], device=weight.device)
        template = casting_inputs(copy.deepcopy(networks[0].backbone).eval().to("meta"))
        seen: list[Tensor] = []
        if observe:
            for layer in batch_norm_layers(template):
                layer.register_forward_pre_hook(functools.partial(_keep, seen, observe))
        return cls(
            template=template,
            seen=seen,
            state={name: value.detach() for name, value in state.items()},
            head_weight=weight.detach(),
            head_bias=bias.detach(),
            absent=torch.arange(most, device=weight.device) >= classes[:, None],
        )

    def __len__(self) -> int:
        return len(self.head_weight)

    def select(self, indices: Tensor) -> NetworkStack:
        """The stack of the networks at ``indices`` int64 [T'], on the stack's device, in this order; an index may occur repeatedly."""
        return replace(
            self,
            state={name: value.index_select(0, indices) for name, value in self.state.items()},
            head_weight=self.head_weight.index_select(0, indices),
            head_bias=self.head_bias.index_select(0, indices),
            absent=self.absent.index_select(0, indices),
        )

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits [T, B, K], at least float32, of normalised inputs [T, B, C, H, W], or of one batch [B, C, H, W] for all networks.

        A stack of one network takes inputs [R, B, C, H, W] of any R, and computes them without grouped convolutions. Differentiable with
        respect to the inputs. Beyond a network's classes the logit is ``ABSENT``, without a gradient.
        """
        return self.head(self.features(inputs))

    def features(self, inputs: Tensor) -> Tensor:
        """The backbones' features [T, B, D] of inputs as for a call."""
        return self.observed(inputs)[0]

    def head(self, features: Tensor) -> Tensor:
        """Logits as of a call, from features [T, B, D]."""
        weight, bias = (value.to(features.dtype).expand(len(features), *value.shape[1:]) for value in (self.head_weight, self.head_bias))
        logits = torch.baddbmm(bias[:, None], features, weight.mT)
        return at_least_float32(logits).masked_fill(self.absent[:, None], ABSENT)

    def observed(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The backbones' features, and what ``observe`` made of each BatchNorm layer in turn, stacked: [T, ...] each."""

        def one(state: dict[str, Tensor], images: Tensor) -> tuple[Tensor, list[Tensor]]:
            try:
                return functional_call(self.template, state, (images,)), list(self.seen)
            finally:
                self.seen.clear()  # after a lack of memory, too: what they were computed from would stay in memory

        state, single = cast_weights(self.template, self.state), len(self) == 1
        if single:
            state = {name: value[0] for name, value in state.items()}
            inputs = inputs if inputs.dim() == 5 else inputs[None]
        of_one = (None if single else 0, 0 if inputs.dim() == 5 else None)
        return mapped(one, of_one)(state, inputs)


def _keep(seen: list[Tensor], observe: Observation, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    seen.append(observe(layer, inputs[0]))


def mapped(function: Callable[..., Any], in_dims: Sequence[int | None], randomness: str = "error") -> Callable[..., Any]:
    """``torch.vmap`` without its warning of operations that it computes one by one.

    Such is adaptive pooling, which some library models have, in channels-last memory.
    """

    def call(*inputs: Any) -> Any:
        with contextlib.nullcontext() if torch.compiler.is_compiling() else _unavoidable_loops():
            return torch.vmap(function, in_dims=tuple(in_dims), randomness=randomness)(*inputs)

    return call


@contextlib.contextmanager
def _unavoidable_loops() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        yield


def casting_inputs(template: Module) -> Module:
    """The module itself, whose layers convert floating-point inputs to the type of their weights or running statistics."""

    def cast(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        own = next(itertools.chain(layer.parameters(recurse=False), layer.buffers(recurse=False)))
        return (inputs[0].to(own.dtype), *inputs[1:]) if inputs[0].is_floating_point() else inputs

    for layer in template.modules():
        if not list(layer.children()) and list(itertools.chain(layer.parameters(), layer.buffers())):
            layer.register_forward_pre_hook(cast)
    return template


def cast_weights(template: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with the weights that autocast would convert converted, if it is enabled: under ``torch.vmap`` it has no effect."""
    device = next(iter(state.values())).device.type
    if not torch.is_autocast_enabled(device):
        return dict(state)
    dtype = torch.get_autocast_dtype(device)
    converted = {
        f"{name}.{parameter}" if name else parameter
        for name, layer in template.named_modules()
        if isinstance(layer, LAYERS_OF_AUTOCAST)
        for parameter, _ in layer.named_parameters(recurse=False)
    }
    return {name: value.to(dtype) if name in converted else value for name, value in state.items()}


def stackable(networks: Sequence[Classifier]) -> list[list[int]]:
    """The positions of the networks in groups, each of one architecture, input shape, device, and width; heads may differ.

    Groups are in the order of their first network.
    """
    groups: dict[Any, list[int]] = {}
    for position, network in enumerate(networks):
        backbone = network.backbone
        tensors = tuple((name, value.shape, value.dtype, value.device) for name, value in backbone.state_dict().items())
        # The string of a network lists its layers with sizes and strides; equal shapes of weights do not imply equal strides.
        groups.setdefault((type(backbone), str(backbone), backbone.input, tensors), []).append(position)
    return list(groups.values())
