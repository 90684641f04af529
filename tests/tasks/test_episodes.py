import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree.config import TasksConfig
from datafree.errors import UserError
from datafree.tasks.episodes import random_teachers, sample_episodes
from datafree.tasks.pools import Pool


def pool(classes, per_class, seed=0) -> Pool:
    """A pool in random order whose images hold their place."""
    labels = torch.arange(len(classes)).repeat_interleave(per_class)
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None]
    return Pool(images, labels, torch.full((len(labels), len(classes)), 1 / len(classes)).half(), tuple(classes))


POOLS = [pool("abc", 6), pool("cdef", 5, 1), pool("ghijk", 7, 2)]
CONFIG = TasksConfig(way=3, shot=2, query=3, episodes=40, mixed=0.5)


def equal(pools):
    return [1.0] * len(pools)


def is_mixed(episodes):
    return (episodes.teacher != episodes.teacher[:, :1]).any(1)


def check(episodes, pools, config):
    assert len(episodes) == config.episodes
    assert episodes.shot == config.shot
    assert episodes.index.shape == (config.episodes, config.way, config.shot + config.query)
    assert episodes.teacher.shape == episodes.label.shape == (config.episodes, config.way)
    assert {part.dtype for part in (episodes.index, episodes.teacher, episodes.label)} == {torch.int64}
    for index, teacher, label in zip(episodes.index, episodes.teacher.tolist(), episodes.label.tolist(), strict=True):
        images = set()
        for places, t, c in zip(index.tolist(), teacher, label, strict=True):
            assert {int(pools[t].labels[place]) for place in places} == {c}  # every image is of the class of that teacher
            images |= {(t, place) for place in places}
        assert len(images) == config.way * (config.shot + config.query)  # support and query share none
        names = [pools[t].classes[c] for t, c in zip(teacher, label, strict=True)]
        assert len(set(names)) == config.way  # a shared class never stands for two


@given(
    st.integers(2, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 30), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(0, 99)
)
def test_episodes_are_what_they_claim(way, shot, query, count, mixed, seed):
    config = TasksConfig(way=way, shot=shot, query=query, episodes=count, mixed=mixed)
    episodes = sample_episodes(POOLS, equal(POOLS), config, seed)
    check(episodes, POOLS, config)
    assert int(is_mixed(episodes).sum()) == round(mixed * count)


@pytest.mark.parametrize("seed", range(5))
def test_the_mixed_share_is_exact_even_where_teachers_share_all_their_classes(seed):
    twins = [pool("abc", 5, 1), pool("abc", 5, 2)]
    config = TasksConfig(way=2, shot=1, query=1, episodes=100, mixed=0.6)
    episodes = sample_episodes(twins, equal(twins), config, seed)
    check(episodes, twins, config)
    assert int(is_mixed(episodes).sum()) == 60


def test_mixed_and_plain_episodes_take_turns_at_random():
    mixed = is_mixed(sample_episodes(POOLS, equal(POOLS), CONFIG, 0)).tolist()
    assert mixed != sorted(mixed)
    assert mixed != sorted(mixed, reverse=True)


def test_a_single_teacher_cannot_be_mixed():
    assert not is_mixed(sample_episodes(POOLS[2:], equal(POOLS[2:]), CONFIG, 0)).any()


def test_a_seed_decides_the_episodes():
    first, second, other = (sample_episodes(POOLS, equal(POOLS), CONFIG, seed) for seed in (1, 1, 2))
    for part in ("index", "teacher", "label"):
        assert torch.equal(getattr(first, part), getattr(second, part))
    assert not torch.equal(first.index, other.index)


def test_teachers_classes_and_images_all_get_their_turn():
    config = TasksConfig(way=3, shot=2, query=3, episodes=400, mixed=0.5)
    episodes = sample_episodes(POOLS, equal(POOLS), config, 0)
    plain = ~is_mixed(episodes)
    counts = torch.bincount(episodes.teacher[plain][:, 0], minlength=3)
    assert counts.min() > 0.2 * counts.sum()
    for number, one in enumerate(POOLS):
        mine = episodes.teacher == number
        assert set(episodes.label[mine].tolist()) == set(range(len(one.classes)))
        assert set(episodes.index[mine].flatten().tolist()) == set(range(len(one.labels)))
        support = torch.bincount(episodes.index[mine][:, :2].flatten(), minlength=len(one.labels))
        assert support.min() > 0  # no image serves as query only


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": 4}, "tasks.query: 4 and 2 shots need more images than a class has, 5; lower one or raise inversion.images_per_class"),
        ({"way": 4}, "tasks.way: got 4; allowed: at most 3, the classes of the smallest teacher"),
    ],
)
def test_what_the_pools_cannot_serve_is_refused(changes, message):
    settings = {"way": 3, "shot": 2, "query": 3, "episodes": 4, "mixed": 0.5, **changes}
    with pytest.raises(UserError, match=f"^{message}$"):
        sample_episodes(POOLS, equal(POOLS), TasksConfig(**settings), 0)


def test_weights_decide_how_often_a_teacher_comes_up():
    config = TasksConfig(way=2, shot=1, query=1, episodes=400, mixed=0.5)
    episodes = sample_episodes(POOLS, [1.0, 0.0, 0.25], config, 0)
    assert not (episodes.teacher == 1).any()
    one = episodes.teacher[~is_mixed(episodes), 0].bincount(minlength=3) / 200
    assert one[2] == pytest.approx(0.2, abs=0.06)
    assert int(is_mixed(episodes).sum()) == 200
    assert not is_mixed(sample_episodes(POOLS, [1.0, 0.0, 0.0], config, 0)).any()


def test_teachers_are_drawn_by_their_odds_and_each_once():
    rng = torch.Generator().manual_seed(0)
    first = torch.zeros(3)
    for _ in range(600):
        drawn = random_teachers(torch.tensor([3.0, 1.0, 0.0]), 3, rng)
        assert sorted(drawn) == [0, 1]
        first[drawn[0]] += 1
    assert first[0] / 600 == pytest.approx(0.75, abs=0.06)
