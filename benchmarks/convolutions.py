"""Search for convolutions with wrong values or crashes: float32 against float64, over shapes, memory formats and instruction sets.

    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/convolutions.py results.json --every 4

Compares output, gradient of the images and gradient of the weights of each shape, on one thread. Shapes run in child processes with heap
checks (glibc); a crash is reported with the exit status of the process, and the next process continues with the following shape.
``--every N --first K`` selects every N-th shape, from the K-th on. All 55,860 shapes take about an hour on one core.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datafree import artifacts
from datafree.errors import exit_on_user_error

INPUTS = [*range(1, 11), 12, 14, 15, 16, 17, 20, 24, 28, 31, 32, 40]
OUTPUTS = [1, 3, 4, 8, 12, 16, 20, 32]
TOLERANCE = 1e-4  # of the largest value


class Shape(NamedTuple):
    """One convolution; ``images`` and ``weights``: whether each is in channels-last memory."""

    batch: int
    inputs: int
    outputs: int
    size: int
    kernel: int
    stride: int
    groups: int
    images: bool
    weights: bool


def shapes() -> Iterator[Shape]:
    """Dense, grouped and depthwise convolutions; mixed memory formats for some of them."""
    for kernel, stride, grouping, inputs, outputs in itertools.product((1, 2, 3, 5), (1, 2, 3), ("one", "two", "each"), INPUTS, OUTPUTS):
        if (grouping == "each" and (outputs > 1 or inputs == 1)) or (grouping == "two" and (inputs % 2 or outputs % 2)):
            continue
        outputs, groups = {"one": (outputs, 1), "two": (outputs, 2), "each": (inputs, inputs)}[grouping]
        for size, batch in itertools.product((2, 5, 8, 16, 32), (1, 5, 16)):
            for images, weights in [(True, True), (True, False), (False, True)]:
                mixed = not (images and weights)
                if size >= kernel and not (mixed and (batch != 5 or size not in (5, 16))):
                    yield Shape(batch, inputs, outputs, size, kernel, stride, groups, images, weights)


def errors(shape: Shape) -> dict[str, float]:
    """Largest difference from float64, relative to the largest value, of output and gradients; only those beyond the tolerance."""
    import torch
    from torch.nn import functional as F

    rng = torch.Generator().manual_seed(hash(shape) % 2**31)
    sizes = (shape.batch, shape.inputs, shape.size, shape.size), (shape.outputs, shape.inputs // shape.groups, shape.kernel, shape.kernel)
    images, weights = (torch.randn(size, generator=rng, dtype=torch.float64) for size in sizes)
    direction, results = None, []
    for dtype in (torch.float64, torch.float32):
        values = [
            value.to(dtype).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format).requires_grad_()
            for value, last in ((images, shape.images), (weights, shape.weights))
        ]
        output = F.conv2d(*values, stride=shape.stride, padding=shape.kernel // 2, groups=shape.groups)
        direction = torch.randn(output.shape, generator=rng, dtype=torch.float64) if direction is None else direction
        results.append([output.detach(), *torch.autograd.grad(output, values, direction.to(output.dtype))])
    differences = [float((a - b).abs().max() / a.abs().max().clamp_min(1e-9)) for a, b in zip(*results, strict=True)]
    named = zip(("output", "gradient of the images", "gradient of the weights"), differences, strict=True)
    return {name: value for name, value in named if not value < TOLERANCE}


def run(chosen: Sequence[int]) -> None:
    """In a child process: print one line before each shape, and one after it if its values are wrong."""
    import torch

    torch.set_num_threads(1)
    every = list(shapes())
    for index in chosen:
        print(f"shape {index}", flush=True)
        if wrong := errors(every[index]):
            print(f"wrong {index} {wrong}", flush=True)
    print("end", flush=True)


def sweep(chosen: Sequence[int]) -> dict[str, list]:
    """Indices of the shapes that crashed their process, with its exit status, and of those with wrong values."""
    died, wrong = [], []
    while chosen:
        environment = {**os.environ, "MALLOC_CHECK_": "3", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--run", *map(str, chosen)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        wrong += [line.removeprefix("wrong ") for line in lines if line.startswith("wrong ")]
        begun = [int(line.split()[1]) for line in lines if line.startswith("shape ")]
        if not begun or lines[-1] == "end":
            break
        died.append([begun[-1], done.returncode])
        chosen = chosen[chosen.index(begun[-1]) + 1 :]
    return {"died": died, "wrong": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", help="JSON file for the results")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--run", type=int, nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        return run(given.run)
    if given.output is None or given.every < 1 or given.first < 0:
        parser.error(f"got output {given.output}, --every {given.every}, --first {given.first}; give a file, --every >= 1, --first >= 0")
    every = list(shapes())
    chosen = list(range(given.first, len(every), given.every))
    results: dict[str, list] = {"died": [], "wrong": []}
    for start in range(0, len(chosen), 2000):  # the length of a command line is limited
        part = sweep(chosen[start : start + 2000])
        results = {kind: results[kind] + part[kind] for kind in results}
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    died = [{**every[index]._asdict(), "status": status} for index, status in results["died"]]
    artifacts.write_json(given.output, {"limit": limit, "shapes": len(chosen), "died": died, "wrong": results["wrong"]})
    print(f"{len(chosen)} shapes: {len(died)} crashed, {len(results['wrong'])} gave wrong values")


if __name__ == "__main__":
    with exit_on_user_error("convolutions"):
        main()
