"""What every search space offers. Pure Python: Snakemake checks limits with it."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, ClassVar

from datafree.config import BackboneConfig

if TYPE_CHECKING:
    from datafree.zoo.backbones import Backbone

Genotype = tuple[str, ...]  # one option per slot


class Space(ABC):
    """A set of networks: a fixed number of slots, each of which takes one of its options.

    ``channels`` and ``cells`` scale the network around the slots. Costs are those of the backbone without a head, for one image of
    [image_channels, image_size, image_size].
    """

    name: ClassVar[str]  # that of the backbone which builds one architecture, too
    skip: ClassVar[str]  # the option that hands its input on
    absent: ClassVar[str] = ""  # the option that adds nothing, if there is one

    def __init__(self, channels: int, cells: int, image_size: int, image_channels: int = 3) -> None:
        self.channels, self.cells, self.image_size, self.image_channels = channels, cells, image_size, image_channels

    # ---- what a space has to say --------------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def choices(self) -> tuple[tuple[str, ...], ...]:
        """The options of every slot."""

    @abstractmethod
    def encode(self, genotype: Genotype) -> str:
        """The standard string of an architecture."""

    @abstractmethod
    def decode(self, text: str) -> Genotype:
        """What ``encode`` wrote.

        Raises:
            UserError: another form, or an option that does not exist.
        """

    @abstractmethod
    def macs(self, genotype: Genotype) -> int:
        """Multiply-adds of convolutions; BatchNorm, pooling and sums count nothing."""

    @abstractmethod
    def parameters(self, genotype: Genotype) -> int:
        """Trainable values."""

    @abstractmethod
    def cheapest(self) -> Genotype:
        """A useful architecture of the fewest multiply-adds and parameters."""

    @abstractmethod
    def is_degenerate(self, genotype: Genotype) -> bool:
        """Whether none of the options between input and output learns: what a search collapses to."""

    @abstractmethod
    def supernet(self) -> Backbone:
        """A freshly initialised backbone that holds every option of every slot: ``forward(images, path)``, see ``datafree.nas.mixing``."""

    # ---- what follows from it, unless slots depend on each other ------------------------------------------------------------------------

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Slots that can only be changed together, all of them in order."""
        return tuple((slot,) for slot in range(len(self.choices)))

    def values_of(self, group: Sequence[int]) -> Sequence[Genotype]:
        """Everything that the slots of one group can take together."""
        return list(itertools.product(*(self.choices[slot] for slot in group)))

    def count(self) -> int:
        """How many architectures there are."""
        return math.prod(len(self.values_of(group)) for group in self.groups)

    def enumerate(self) -> Iterator[Genotype]:
        """All architectures; the first group varies slowest. Groups hold slots in order."""
        parts = itertools.product(*(self.values_of(group) for group in self.groups))
        return (tuple(itertools.chain.from_iterable(part)) for part in parts)

    def is_useful(self, genotype: Genotype) -> bool:
        """Whether its output depends on its input and nothing in it is computed in vain."""
        return True

    def canonical(self, genotype: Genotype) -> str:
        """Equal for architectures that are known to be one function."""
        return self.encode(genotype)

    def most_probable(self, probabilities: Sequence[Mapping[str, float]]) -> Genotype:
        """The architecture that a relaxed search ends with, given the probability of every option of every slot."""
        return tuple(max(slot, key=lambda option: slot[option]) for slot in probabilities)

    def lines(self, genotype: Genotype) -> list[str]:
        """The architecture for a reader, line by line."""
        return [f"slot {slot:>2}  {option}" for slot, option in enumerate(genotype)]

    def backbone(self, genotype: Genotype) -> BackboneConfig:
        """The settings by which ``datafree.zoo.backbones.build`` makes the stand-alone network."""
        return BackboneConfig(self.name, self.channels, self.encode(genotype), self.cells)

    def sample(self, random: Random) -> Genotype:
        """An architecture, uniformly among all."""
        return tuple(itertools.chain.from_iterable(random.choice(self.values_of(group)) for group in self.groups))

    def mutate(self, genotype: Genotype, probability: float, random: Random) -> Genotype:
        """Each group of slots is replaced, with that probability, by another one, if it has one."""
        parts = []
        for group in self.groups:
            before = tuple(genotype[slot] for slot in group)
            others = [value for value in self.values_of(group) if value != before] if random.random() < probability else []
            parts.append(random.choice(others or [before]))
        return tuple(itertools.chain.from_iterable(parts))

    def cross_over(self, first: Genotype, second: Genotype, random: Random) -> Genotype:
        """Each group of slots is taken from either parent with equal probability."""
        parents = ((group, random.choice((first, second))) for group in self.groups)
        return tuple(parent[slot] for group, parent in parents for slot in group)
