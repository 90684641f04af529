import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree.config import TasksConfig
from datafree.errors import UserError
from datafree.tasks.episodes import sample_episodes, sample_teachers
from datafree.tasks.pools import Pool


def pool(classes, per_class, seed=0) -> Pool:
    """A pool in random order; the pixels of each image are its position."""
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
        for rows, t, c in zip(index.tolist(), teacher, label, strict=True):
            assert {int(pools[t].labels[row]) for row in rows} == {c}  # every image is of that class of that teacher
            images |= {(t, row) for row in rows}
        assert len(images) == config.way * (config.shot + config.query)  # support and query share no image
        names = [pools[t].classes[c] for t, c in zip(teacher, label, strict=True)]
        assert len(set(names)) == config.way  # a class that teachers share occurs once


@given(
    st.integers(2, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 30), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(0, 99)
)
def test_episodes_hold_distinct_images_of_distinct_classes(way, shot, query, count, mixed, seed):
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


def test_mixed_and_single_teacher_episodes_are_in_random_order():
    mixed = is_mixed(sample_episodes(POOLS, equal(POOLS), CONFIG, 0)).tolist()
    assert mixed != sorted(mixed)
    assert mixed != sorted(mixed, reverse=True)


def test_with_a_single_teacher_no_episode_is_mixed():
    assert not is_mixed(sample_episodes(POOLS[2:], equal(POOLS[2:]), CONFIG, 0)).any()


def test_the_seed_determines_the_episodes():
    first, second, other = (sample_episodes(POOLS, equal(POOLS), CONFIG, seed) for seed in (1, 1, 2))
    for part in ("index", "teacher", "label"):
        assert torch.equal(getattr(first, part), getattr(second, part))
    assert not torch.equal(first.index, other.index)


def test_all_teachers_classes_and_images_are_sampled():
    config = TasksConfig(way=3, shot=2, query=3, episodes=400, mixed=0.5)
    episodes = sample_episodes(POOLS, equal(POOLS), config, 0)
    single = ~is_mixed(episodes)
    counts = torch.bincount(episodes.teacher[single][:, 0], minlength=3)
    assert counts.min() > 0.2 * counts.sum()
    for number, recovered in enumerate(POOLS):
        of_teacher = episodes.teacher == number
        assert set(episodes.label[of_teacher].tolist()) == set(range(len(recovered.classes)))
        assert set(episodes.index[of_teacher].flatten().tolist()) == set(range(len(recovered.labels)))
        support = torch.bincount(episodes.index[of_teacher][:, :2].flatten(), minlength=len(recovered.labels))
        assert support.min() > 0  # no image is a query only


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": 4}, "tasks.query: 4 and 2 shots need more images than a class has, 5; lower one or raise inversion.images_per_class"),
        ({"way": 4}, "tasks.way: got 4; allowed: at most 3, the classes of the smallest teacher"),
    ],
)
def test_settings_that_the_pools_are_too_small_for_are_refused(changes, message):
    settings = {"way": 3, "shot": 2, "query": 3, "episodes": 4, "mixed": 0.5, **changes}
    with pytest.raises(UserError, match=f"^{message}$"):
        sample_episodes(POOLS, equal(POOLS), TasksConfig(**settings), 0)


def test_teachers_are_sampled_in_proportion_to_their_weights():
    config = TasksConfig(way=2, shot=1, query=1, episodes=400, mixed=0.5)
    episodes = sample_episodes(POOLS, [1.0, 0.0, 0.25], config, 0)
    assert not (episodes.teacher == 1).any()
    shares = episodes.teacher[~is_mixed(episodes), 0].bincount(minlength=3) / 200
    assert shares[2] == pytest.approx(0.2, abs=0.06)
    assert int(is_mixed(episodes).sum()) == 200
    assert not is_mixed(sample_episodes(POOLS, [1.0, 0.0, 0.0], config, 0)).any()


def test_teachers_are_sampled_by_weight_without_replacement():
    rng = torch.Generator().manual_seed(0)
    first = torch.zeros(3)
    for _ in range(600):
        sampled = sample_teachers(torch.tensor([3.0, 1.0, 0.0]), 3, rng)
        assert sorted(sampled) == [0, 1]
        first[sampled[0]] += 1
    assert first[0] / 600 == pytest.approx(0.75, abs=0.06)
