"""The abstract search space: slots and their options, costs, sampling, mutation, crossover, and the networks of its architectures.

Imports no PyTorch until a network or a picture is made: Snakemake checks the limits of searches with it at every start.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, ClassVar

from datafree.config import BackboneConfig

if TYPE_CHECKING:
    from PIL import Image

    from datafree.zoo.backbones.base import Backbone

Genotype = tuple[str, ...]  # one option per slot


class Space(ABC):
    """A set of architectures: a fixed number of slots, each of which holds one of its options.

    ``channels`` and ``cells`` scale the network around the slots. Costs are those of the backbone without a head, for one image of
    [image_channels, image_size, image_size].
    """

    name: ClassVar[str]  # in the configuration, both of the space and of a backbone that is one of its architectures
    skip: ClassVar[str]  # the option that passes its input on unchanged
    absent: ClassVar[str] = ""  # the option that contributes nothing, if there is one

    def __init__(self, channels: int, cells: int, image_size: int, image_channels: int = 3) -> None:
        self.channels, self.cells, self.image_size, self.image_channels = channels, cells, image_size, image_channels

    # ---- what a space has to define -----------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def choices(self) -> tuple[tuple[str, ...], ...]:
        """The options of every slot."""

    @abstractmethod
    def encode(self, genotype: Genotype) -> str:
        """The standard string of an architecture."""

    @abstractmethod
    def decode(self, text: str) -> Genotype:
        """The inverse of ``encode``.

        Raises:
            UserError: another form, or an option that does not exist.
        """

    @abstractmethod
    def macs(self, genotype: Genotype) -> int:
        """Multiply-adds of convolutions; BatchNorm, pooling and sums are not counted."""

    @abstractmethod
    def parameters(self, genotype: Genotype) -> int:
        """Number of trainable values."""

    @abstractmethod
    def cheapest(self) -> Genotype:
        """A useful architecture with the fewest multiply-adds and parameters."""

    @abstractmethod
    def is_degenerate(self, genotype: Genotype) -> bool:
        """Whether no option between input and output has weights; gradient-based searches can collapse to such architectures."""

    @abstractmethod
    def network(self, genotype: Genotype) -> Backbone:
        """The freshly initialised stand-alone network; ``datafree.nas.networks`` builds it from a seed."""

    @abstractmethod
    def supernet(self) -> Backbone:
        """A freshly initialised backbone with every option of every slot: ``forward(images, path)``, see ``datafree.nas.slots``."""

    # ---- derived from these; a space whose slots depend on each other overrides some -----------------------------------------------------

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Slots that can only be changed together; every slot is in one group, in order."""
        return tuple((slot,) for slot in range(len(self.choices)))

    def values_of(self, group: Sequence[int]) -> Sequence[Genotype]:
        """All allowed combinations of options for the slots of one group."""
        return list(itertools.product(*(self.choices[slot] for slot in group)))

    def count(self) -> int:
        """The number of architectures."""
        return math.prod(len(self.values_of(group)) for group in self.groups)

    def enumerate(self) -> Iterator[Genotype]:
        """All architectures; the first group varies slowest. Groups hold slots in order."""
        parts = itertools.product(*(self.values_of(group) for group in self.groups))
        return (tuple(itertools.chain.from_iterable(part)) for part in parts)

    def is_useful(self, genotype: Genotype) -> bool:
        """Whether the output depends on the input and nothing is computed that does not reach the output."""
        return True

    def canonical(self, genotype: Genotype) -> str:
        """A string that is equal for architectures known to compute the same function."""
        return self.encode(genotype)

    def most_probable(self, probabilities: Sequence[Mapping[str, float]]) -> Genotype:
        """The discrete architecture of a relaxed search, from the probability of every option of every slot."""
        return tuple(max(slot, key=lambda option: slot[option]) for slot in probabilities)

    def lines(self, genotype: Genotype) -> list[str]:
        """The architecture as lines of text."""
        return [f"slot {slot:>2}  {option}" for slot, option in enumerate(genotype)]

    def draw(self, genotype: Genotype) -> Image.Image:
        """The architecture as an RGB picture: by default its lines of text."""
        from datafree.nas.drawing import draw_list

        return draw_list(self.lines(genotype))

    def backbone(self, genotype: Genotype) -> BackboneConfig:
        """The settings with which ``datafree.nas.networks.build`` builds the stand-alone network."""
        return BackboneConfig(self.name, self.channels, self.encode(genotype), self.cells)

    def sample(self, random: Random) -> Genotype:
        """A random architecture, uniform over the space."""
        return tuple(itertools.chain.from_iterable(random.choice(self.values_of(group)) for group in self.groups))

    def mutate(self, genotype: Genotype, probability: float, random: Random) -> Genotype:
        """Replace each group of slots with the given probability by another of its values, if it has another."""
        parts = []
        for group in self.groups:
            before = tuple(genotype[slot] for slot in group)
            others = [value for value in self.values_of(group) if value != before] if random.random() < probability else []
            parts.append(random.choice(others or [before]))
        return tuple(itertools.chain.from_iterable(parts))

    def cross_over(self, first: Genotype, second: Genotype, random: Random) -> Genotype:
        """Take each group of slots from either parent with equal probability."""
        parents = ((group, random.choice((first, second))) for group in self.groups)
        return tuple(parent[slot] for group, parent in parents for slot in group)
