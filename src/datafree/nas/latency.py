"""How long every option of every slot takes on this machine; after the look-up table of Cai et al., "ProxylessNAS", ICLR 2019."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from datafree.nas.mixing import Supernet
from datafree.nas.spaces import Genotype, Space

REPEATS = 5  # of which the median counts
CALLS = 3  # timed together


class LatencyTable(dict[str, dict[str, float]]):
    """Milliseconds for one image: under ``fixed`` those of the network with the fastest option of every slot, and per slot, by its number
    as text, how many more each option takes there than the fastest (none for that one, never less).

    A network's time is their sum: no overlap of options is modelled. It is above 0, whatever the noise of the clock. The table depends on
    the machine and its load.
    """

    def state_dict(self) -> dict[str, Any]:
        return {slot: dict(times) for slot, times in self.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.clear()
        self.update(state_dict)

    def of(self, genotype: Genotype) -> float:
        """Milliseconds of one architecture."""
        return self["fixed"][""] + sum(self[str(slot)][option] for slot, option in enumerate(genotype))

    def measures(self, genotype: Genotype) -> dict[str, float]:
        """{"latency": milliseconds}, or nothing while the table is empty."""
        return {"latency": self.of(genotype)} if self else {}

    @torch.no_grad()
    def measure(self, space: Space, supernet: Supernet, device: torch.device | str) -> None:
        """Fill the table: the cheapest architecture is timed with each option of each slot in turn.

        The supernet stays as it was, training mode included.
        """
        training = supernet.training
        backbone = supernet.eval().backbone
        images = torch.zeros(1, space.image_channels, space.image_size, space.image_size, device=device)
        images = images.contiguous(memory_format=torch.channels_last)

        def time_of(*path: str) -> float:
            return milliseconds(lambda: backbone(images, path), device)

        base, fastest = space.cheapest(), []
        for number, options in enumerate(space.choices):
            times = {option: time_of(*base[:number], option, *base[number + 1 :]) for option in options}
            fastest.append(min(times, key=times.__getitem__))
            self[str(number)] = {option: value - times[fastest[-1]] for option, value in times.items()}
        self["fixed"] = {"": time_of(*fastest)}
        supernet.train(training)


def milliseconds(work: Callable[[], Any], device: torch.device | str) -> float:
    """The median time of ``work`` over several repeats, after a warm-up."""
    on_gpu = torch.device(device).type == "cuda"
    times = []
    for _ in range(REPEATS + 1):
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(CALLS):
            work()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start) / CALLS)
    return statistics.median(times[1:])
