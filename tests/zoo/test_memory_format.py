"""Gradients in channels-last memory agree with float64, on every oneDNN code path that this processor supports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from datafree.workflow import hardware
from datafree.zoo.backbones.memory_format import channels_last, has_defective_kernel

ROOT = Path(__file__).parents[2]
DEFECTIVE = [(4, 8, 2), (5, 8, 2), (1, 4, 2), (7, 16, 3), (12, 8, 2), (15, 32, 2)]  # input channels, output channels, stride

# In a separate process: the code path is chosen when PyTorch loads, and a corrupted heap crashes the process.
COMPARE = """
import sys, torch
from tests.zoo.gradient_cases import CASES, worst_difference
for name, case in CASES.items():
    print(name, flush=True)
    error = worst_difference(case)
    assert error < 0.1, f"{name}: gradients in float32 differ from float64 by {error:.2e} of their length"
print("all compared")
"""


DEFAULT = pytest.param(
    "DEFAULT", marks=pytest.mark.skipif(hardware.instruction_set() == hardware.LIMITS["AVX2"], reason="the same code path as AVX2")
)


@pytest.mark.parametrize("code_path", [pytest.param("SSE41", marks=pytest.mark.slow), "AVX2", DEFAULT])
def test_gradients_of_every_network_agree_with_float64(code_path):
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": code_path, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    environment |= {"MALLOC_CHECK_": "3", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMPARE], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.endswith("all compared\n"), f"status {done.returncode} at {done.stdout.split()[-1:]}: {done.stderr[-2000:]}"


@pytest.mark.parametrize(("inputs", "outputs", "stride"), DEFECTIVE)
@pytest.mark.parametrize("padding", [0, 1, "valid"])
@pytest.mark.parametrize("groups", [1, "each"])
def test_the_split_layer_computes_the_same_function(inputs, outputs, stride, padding, groups):
    groups, outputs = (1, outputs) if groups == 1 else (inputs, 2 * inputs)
    torch.manual_seed(0)
    layer = nn.Conv2d(inputs, outputs, 1, stride, padding, groups=groups, dtype=torch.float64)
    images = torch.randn(3, inputs, 9, 12, dtype=torch.float64)
    expected = layer(images)
    assert has_defective_kernel(layer)
    split = channels_last(layer)
    assert split is layer and not has_defective_kernel(layer)
    assert torch.allclose(split(images), expected, atol=1e-12)
    assert split.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(16, 8, 1, 2), nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, 2), nn.Conv2d(4, 4, 3, 2, groups=4), nn.Conv2d(4, 8, (1, 3), 2)],
)
def test_other_layers_are_not_changed(layer):
    stride, padding = layer.stride, layer.padding
    assert not has_defective_kernel(layer)
    channels_last(layer)
    assert (layer.stride, layer.padding) == (stride, padding)
    layer.register_forward_hook(lambda module, inputs, output: inputs[0].shape[-1])
    assert layer(torch.randn(2, layer.in_channels, 8, 8)) == 8  # the layer gets its input unchanged


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_every_padding_mode_of_the_layer_is_kept(mode):
    layer = nn.Conv2d(4, 8, 1, 2, 1, padding_mode=mode)
    images = torch.randn(2, 4, 9, 12)
    expected = layer(images)
    assert torch.allclose(channels_last(layer)(images), expected, atol=1e-6)


def test_converting_twice_equals_converting_once():
    layer = nn.Conv2d(4, 8, 1, 2)
    images = torch.randn(2, 4, 8, 8)
    expected = layer(images)
    assert torch.allclose(channels_last(channels_last(layer))(images), expected, atol=1e-6)


def test_only_one_module_converts_weights_to_channels_last():
    modules = [path.name for path in (ROOT / "src").rglob("*.py") if ".to(memory_format" in path.read_text(encoding="utf-8")]
    assert modules == ["memory_format.py"]
