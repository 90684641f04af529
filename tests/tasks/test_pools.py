import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree.tasks.pools import balanced_rows, class_rows


def test_class_rows_are_the_positions_of_each_class(pools):
    rows = class_rows(pools[1])
    assert len(rows) == 4
    for label, positions in enumerate(rows):
        assert (pools[1].labels[positions] == label).all()
    assert sorted(torch.cat(rows).tolist()) == list(range(len(pools[1].labels)))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 50))
def test_balanced_rows_are_distinct_and_even_over_the_classes(labels, count):
    labels = torch.tensor(labels)
    rows = balanced_rows(labels, count, torch.Generator().manual_seed(0))
    assert len(rows) == min(count, len(labels)) == len(rows.unique())
    taken = {int(label): int((labels[rows] == label).sum()) for label in labels.unique()}
    for label, number in taken.items():
        if number < int((labels == label).sum()):  # images are left: no other class has more than one image more
            assert number >= max(taken.values()) - 1
