from __future__ import annotations

import torch
from torch import nn

from datafree.nas.slots import Slot


def test_a_slot_sums_its_options_by_weight():
    slot = Slot({"none": nn.Identity(), "a": nn.Linear(3, 3), "b": nn.Linear(3, 3)}, "none")
    x, weights = torch.randn(2, 3), {"none": torch.tensor(0.5), "a": torch.tensor(0.2), "b": torch.tensor(0.3)}
    torch.testing.assert_close(slot(x, weights), 0.2 * slot["a"](x) + 0.3 * slot["b"](x))
    assert slot(x, "none") is None
    assert slot(x, {"none": torch.tensor(1.0)}) is None
