import itertools
import re
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datafree.config import GlyphsConfig, Splits
from datafree.data import SPLITS
from datafree.data.glyphs import SCRIPTS, characters, class_name, glyph_images, masks
from datafree.errors import UserError

SMALL = GlyphsConfig(classes=Splits(4, 3, 5), images_per_class=Splits(6, 4, 3))


def scripts_of(split):
    return {unicodedata.name(character).split()[0] for character in characters()[split]}


def test_no_script_is_in_two_splits():
    assert tuple(SCRIPTS) == SPLITS
    assert scripts_of("train") == {"LATIN", "GREEK", "CYRILLIC", "DIGIT"}
    assert scripts_of("validation") == {"HEBREW", "LAO", "NKO", "LISU", "OLD", "OGHAM", "COPTIC"}
    assert scripts_of("test") == {"ARMENIAN", "GEORGIAN", "TIFINAGH", "ARABIC"}


def test_there_are_enough_classes_without_repetition():
    counts = {split: len(of_split) for split, of_split in characters().items()}
    assert counts["train"] >= 400
    assert counts["validation"] >= 120
    assert counts["test"] >= 220
    everything = [character for of_split in characters().values() for character in of_split]
    assert len(set(everything)) == sum(counts.values())


def test_no_shape_is_in_two_classes():
    """The correlation is recomputed from the masks with another resizing, hence the margin above the limit of 0.88."""
    shapes = []
    for character in (character for of_split in characters().values() for character in of_split):
        mask = masks(character)[0]
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        crop = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        shapes.append(F.interpolate(crop[None, None].float(), (8, 8), mode="area").flatten())
    correlation = np.corrcoef(torch.stack(shapes).numpy())
    np.fill_diagonal(correlation, 0)
    assert correlation.max() < 0.91
    sizes = np.cumsum([0, *(len(of_split) for of_split in characters().values())])
    across = [correlation[a:b, b:] for a, b in itertools.pairwise(sizes[:-1])]
    assert max(block.max() for block in across) < 0.91


@pytest.mark.parametrize("family", ["AΑАꓮ", "oOοОоՕօ𐌏", "HΗНꓧ", "KΚК𐌊", "PΡР𐌐", "XΧХ𐌗", "IΙІꓲ"])
def test_look_alikes_are_one_class(family):
    everything = {character for of_split in characters().values() for character in of_split}
    assert len(everything & set(family)) == 1


def test_names_are_distinct_slugs_that_begin_with_the_script():
    assert class_name("α") == "greek-small-alpha"
    assert class_name("4") == "digit-four"
    names = [class_name(character) for of_split in characters().values() for character in of_split]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)
    assert {name.split("-")[0] for name in names} == {script.lower() for scripts in SCRIPTS.values() for script in scripts}


def test_masks_fill_one_side_and_exist_in_several_fonts():
    for character in (of_split[index] for of_split in characters().values() for index in (0, 20, -1)):
        drawn = masks(character)
        assert drawn.dtype == torch.uint8
        assert drawn.shape[1:] == (64, 64)
        assert len(drawn) >= 2
        assert not torch.equal(drawn[0], drawn[1])
        for mask in drawn:
            assert (mask.any(0).all() and mask.any(1).all()) or mask.any(0)[[0, -1]].all() or mask.any(1)[[0, -1]].all()


@pytest.mark.parametrize("split", SPLITS)
def test_a_set_has_the_configured_classes_and_images(split):
    data = glyph_images(SMALL, split, 24, seed=0)
    classes, count = getattr(SMALL.classes, split), getattr(SMALL.images_per_class, split)
    assert data.images.shape == (classes * count, 3, 24, 24)
    assert data.labels.bincount().tolist() == [count] * classes
    assert set(data.classes) <= {class_name(character) for character in characters()[split]}


def test_the_seed_determines_classes_and_images():
    first, again, other = (glyph_images(SMALL, "train", 32, seed) for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert first.classes == again.classes
    assert first.classes != other.classes
    assert not torch.equal(first.images, other.images)


def test_a_split_does_not_depend_on_the_sizes_of_the_others():
    larger = replace(SMALL, classes=Splits(4, 30, 50), images_per_class=Splits(6, 7, 8))
    before, after = glyph_images(SMALL, "train", 32, 0), glyph_images(larger, "train", 32, 0)
    assert torch.equal(before.images, after.images)
    assert before.classes == after.classes


def test_the_images_of_a_class_do_not_depend_on_the_number_of_classes():
    few = glyph_images(SMALL, "test", 32, 0)
    many = glyph_images(replace(SMALL, classes=Splits(4, 3, 9)), "test", 32, 0)
    kept = many.of_classes([many.classes.index(name) for name in few.classes])
    assert torch.equal(kept.images, few.images)


def test_labels_match_the_images():
    """The nearest class mean classifies clean grey glyphs; with wrong labels the accuracy would be near 1 in 40."""
    clean = glyph_images(GlyphsConfig(difficulty=0, classes=Splits(2, 2, 40), images_per_class=Splits(2, 2, 20)), "test", 32, 0)
    grey = clean.images.float().mean(1).flatten(1)
    grey = F.normalize(grey - grey.mean(1, keepdim=True), dim=1)
    means = torch.stack([grey[(clean.labels == label) & (torch.arange(len(grey)) % 2 == 0)].mean(0) for label in range(40)])
    odd = torch.arange(len(grey)) % 2 == 1
    assert (torch.cdist(grey[odd], means).argmin(1) == clean.labels[odd]).float().mean() > 0.8


@pytest.mark.parametrize("split", SPLITS)
def test_more_classes_than_exist_are_refused_with_the_number_that_exist(split):
    exist = len(characters()[split])
    too_many = replace(SMALL, classes=replace(SMALL.classes, **{split: exist + 1}))
    with pytest.raises(UserError, match=rf"data\.glyphs\.classes\.{split}: got {exist + 1}; allowed: at most {exist}\b"):
        glyph_images(too_many, split, 32, 0)
