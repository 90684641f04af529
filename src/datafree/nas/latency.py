"""Latency look-up table: measured milliseconds of every option of every slot (Cai et al., "ProxylessNAS", ICLR 2019)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from datafree.nas.space import Genotype, Space
from datafree.nas.supernet import Supernet

REPEATS = 5  # the result is their median
CALLS = 3  # forward passes per repeat


class LatencyTable(dict[str, dict[str, float]]):
    """Milliseconds for one image. ``fixed``: the network with the fastest option in every slot. A slot's number as text: for each of its
    options the additional time over the fastest option, 0 for the fastest itself.

    The latency of a network is the sum of these, which models no overlap of options. It is above 0 despite timing noise. The table
    depends on the machine and its load.
    """

    def state_dict(self) -> dict[str, Any]:
        return {slot: dict(times) for slot, times in self.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.clear()
        self.update(state_dict)

    def of(self, genotype: Genotype) -> float:
        """The latency of one architecture in milliseconds."""
        return self["fixed"][""] + sum(self[str(slot)][option] for slot, option in enumerate(genotype))

    def measures(self, genotype: Genotype) -> dict[str, float]:
        """{"latency": milliseconds}, or an empty dictionary while the table is empty."""
        return {"latency": self.of(genotype)} if self else {}

    @torch.no_grad()
    def measure(self, space: Space, supernet: Supernet, device: torch.device | str) -> None:
        """Fill the table by timing the cheapest architecture with each option of each slot in turn.

        The supernet is unchanged afterwards, including its training mode.
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
