from __future__ import annotations

from random import Random

from datafree.nas import latency
from datafree.nas.latency import LatencyTable
from datafree.nas.mixing import new_supernet
from datafree.nas.spaces.nasbench201 import NasBench201Space

SPACE = NasBench201Space(4, 1, 16)


def test_a_networks_time_is_the_sum_over_its_slots(monkeypatch):
    """The clock counts convolutions run: then the table must give the number of every cell."""
    supernet, ran = new_supernet(SPACE, [3], 0, "cpu"), []
    for name, module in supernet.named_modules():
        if name.endswith("conv"):
            module.register_forward_hook(lambda *_: ran.append(1))

    def count(work, device):
        ran.clear()
        work()
        return float(len(ran))

    monkeypatch.setattr(latency, "milliseconds", count)
    table = LatencyTable()
    table.measure(SPACE, supernet, "cpu")
    assert supernet.training
    for genotype in list(SPACE.enumerate())[::977]:
        convolutions = sum(name.startswith("nor_conv") for name in genotype)
        assert table.of(genotype) == 4 + 3 * convolutions  # reductions have four, cells are three
    again = LatencyTable()
    again.load_state_dict(table.state_dict())
    assert again == table


def test_no_noise_of_the_clock_makes_a_time_negative(monkeypatch):
    """A busy machine: the clock's readings have nothing to do with the work."""
    random = Random(0)
    monkeypatch.setattr(latency, "milliseconds", lambda work, device: random.lognormvariate(0, 2))
    table = LatencyTable()
    table.measure(SPACE, new_supernet(SPACE, [3], 0, "cpu"), "cpu")
    assert all(min(table[str(slot)].values()) == 0 for slot in range(len(SPACE.choices)))
    assert min(map(table.of, SPACE.enumerate())) == table["fixed"][""] > 0


def test_time_is_measured():
    assert latency.milliseconds(lambda: sum(range(1000)), "cpu") > 0
