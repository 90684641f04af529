from __future__ import annotations

from random import Random

from datafree.nas import latency
from datafree.nas.latency import LatencyTable
from datafree.nas.spaces.nasbench201.space import NasBench201Space
from datafree.nas.supernet import new_supernet

SPACE = NasBench201Space(4, 1, 16)


def test_the_latency_of_a_network_is_the_sum_over_its_slots(monkeypatch):
    """Time is replaced by the number of convolutions computed: the table must give this number for every cell."""
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
        assert table.of(genotype) == 4 + 3 * convolutions  # two reductions of two each; three cells
    again = LatencyTable()
    again.load_state_dict(table.state_dict())
    assert again == table


def test_timing_noise_never_gives_a_negative_latency(monkeypatch):
    """Times are random, as on a busy machine."""
    random = Random(0)
    monkeypatch.setattr(latency, "milliseconds", lambda work, device: random.lognormvariate(0, 2))
    table = LatencyTable()
    table.measure(SPACE, new_supernet(SPACE, [3], 0, "cpu"), "cpu")
    assert all(min(table[str(slot)].values()) == 0 for slot in range(len(SPACE.choices)))
    assert min(map(table.of, SPACE.enumerate())) == table["fixed"][""] > 0


def test_time_is_measured():
    assert latency.milliseconds(lambda: sum(range(1000)), "cpu") > 0
