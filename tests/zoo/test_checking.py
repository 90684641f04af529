import re

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from datafree.errors import UserError
from datafree.zoo import checking
from datafree.zoo.checking import BROKEN, DUPLICATE, SOUND, TRAINED, check, weights_hash
from datafree.zoo.manifest import Architecture, Entry
from datafree.zoo.teachers import empty_network

HEADER = "defaults: {architecture: {name: conv4, width: 8}, input: [3, 16, 16], classes: [red, green, blue], licence: CC0}\nteachers:\n"


def colour_network(size=16, width=8):
    """A classifier of red, green and blue images: each of its first filters passes one colour."""
    network = empty_network(Entry(architecture=Architecture("conv4", width), input=[3, size, size]), 3)
    with torch.no_grad():
        for number, block in enumerate(network.backbone.blocks):
            block.conv.weight.mul_(0.05)
            block.conv.bias.zero_()
            block.norm.weight.mul_(1.1)
            for colour in range(3):
                block.conv.weight[colour].zero_()
                block.conv.weight[colour, colour, 1, 1] = 1.0
            block.norm.running_mean.fill_(0.01 * number)
        network.head.weight.zero_()
        network.head.bias.zero_()
        for colour in range(3):
            network.head.weight[colour, colour * (size // 16) ** 2] = 5.0
    return network.eval()


def save(folder, name, network):
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, folder / name)


@pytest.fixture
def zoo(tmp_path):
    """A function from entries, in YAML, to reports; ``good.safetensors`` exists."""
    save(tmp_path, "good.safetensors", colour_network())

    def run(entries, **options):
        (tmp_path / "z.yaml").write_text(HEADER + "".join(f"  - {{{entry}}}\n" for entry in entries))
        return check(tmp_path / "z.yaml", tmp_path / "cache", **options)

    run.folder = tmp_path
    return run


@pytest.fixture
def photos(tmp_path):
    """Forty images of each colour, and of a class that no teacher has."""
    for colour, name in enumerate(["red", "green", "blue", "violet"]):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(40):
            image = [40, 40, 40]
            image[min(colour, 2)] = 160 + 2 * number
            Image.new("RGB", (20, 20), tuple(image)).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def test_a_sound_teacher_is_described(zoo):
    (report,) = zoo(["name: a, file: good.safetensors"])
    assert (report.name, report.source, report.licence, report.architecture) == ("a", "good.safetensors", "CC0", "conv4 8")
    network = empty_network(Entry(architecture=Architecture("conv4", 8), input=[3, 16, 16]), 3)
    assert report.parameters == sum(parameter.numel() for parameter in network.parameters())
    macs = [256 * 8 * 27, 64 * 8 * 72, 16 * 8 * 72, 4 * 8 * 72, 8 * 3]
    assert report.macs == sum(macs)
    assert (report.classes, report.batch_norm_layers) == (3, 4)
    assert (report.state, report.problems, report.remarks, report.accuracy) == (SOUND, (), (), None)


def test_every_teacher_is_reported_in_order_up_to_the_limit(zoo):
    reports = zoo(["name: a, file: absent.pth", "name: b, file: good.safetensors", "name: c, file: absent.pth"], limit=2)
    assert [(report.name, report.state) for report in reports] == [("a", BROKEN), ("b", SOUND)]
    assert reports[0].problems[0].endswith("absent.pth: the checkpoint is missing; correct `file` in the manifest or put it there")
    assert reports[0].parameters == reports[1].parameters  # those of the architecture


def test_a_teacher_that_the_pipeline_trains_is_listed(tmp_path):
    (tmp_path / "z.yaml").write_text("teachers:\n  - {name: t, train: {classes: 5}}\n")
    (report,) = check(tmp_path / "z.yaml", tmp_path / "cache")
    assert (report.state, report.classes, report.source) == (TRAINED, 5, "trained on the training split")
    assert report.macs and not report.problems and not report.weights


def broken_network(kind):
    network = colour_network()
    with torch.no_grad():
        if kind == "fresh":
            network = empty_network(Entry(architecture=Architecture("conv4", 8), input=[3, 16, 16]), 3, seed=1)
        elif kind == "NaN":
            network.head.bias[1] = torch.nan
        elif kind == "constant":
            network.head.weight.zero_()
        elif kind == "overflow":
            network.head.weight.fill_(3e38)
        elif kind == "four classes":
            network.head = torch.nn.Linear(8, 4)
    return network


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("fresh", "scale and shift of all 4 normalisation layers are as initialised: its weights were never trained"),
        ("NaN", "`head.bias` holds NaN or infinity"),
        ("constant", "its logits are the same for every image"),
        ("overflow", "its logits for noise are not finite"),
        ("four classes", "the checkpoint has 4 classes, the manifest names 3"),
    ],
)
def test_a_teacher_with_a_problem_is_broken(zoo, kind, message):
    save(zoo.folder, "bad.safetensors", broken_network(kind))
    good, bad = zoo(["name: a, file: good.safetensors", "name: b, file: bad.safetensors"])
    assert good.state == SOUND
    assert bad.state == BROKEN
    assert len(bad.problems) == 1
    assert message in bad.problems[0]
    assert "\n" not in bad.problems[0]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("architecture: {name: conv5}", "got 'conv5'; allowed: conv4"),
        ("input: [3, 8, 8]", "four poolings need at least 16"),
        ("sha256: '" + "0" * 64 + "'", "SHA-256 is"),
        ("architecture: {name: resnet20}", "missing|other names"),
    ],
)
def test_an_entry_that_does_not_fit_its_file_is_broken(zoo, entry, message):
    good, bad = zoo(["name: a, file: good.safetensors", f"name: b, file: good.safetensors, {entry}"])
    assert (good.state, bad.state) == (SOUND, BROKEN)
    assert re.search(message, bad.problems[0])


def test_the_size_is_counted_once_per_architecture(zoo, monkeypatch):
    counted = []
    original = checking.make_card
    monkeypatch.setattr(checking, "make_card", lambda entry, *rest: counted.append(entry.name) or original(entry, *rest))
    zoo([f"name: a{i}, file: good.safetensors" for i in range(5)] + ["name: b, file: good.safetensors, input: [3, 20, 20]"])
    assert counted == ["a0", "b"]


def test_duplicates_are_detected_across_file_formats(zoo):
    state = colour_network().state_dict()
    state["backbone.blocks.0.norm.num_batches_tracked"].add_(7)
    torch.save({"state_dict": state}, zoo.folder / "same.pth")
    other = colour_network()
    with torch.no_grad():
        other.head.bias[0] = 1e-3
    save(zoo.folder, "other.safetensors", other)
    names = {"a": "good.safetensors", "b": "other.safetensors", "c": "same.pth", "d": "good.safetensors"}
    reports = zoo([f"name: {name}, file: {file}" for name, file in names.items()])
    assert [report.state for report in reports] == [SOUND, SOUND, DUPLICATE, DUPLICATE]
    assert reports[2].remarks == ("it has the same weights as a; its images would count twice",)
    assert reports[3].remarks == reports[2].remarks
    assert weights_hash(colour_network()) == reports[0].weights != reports[1].weights


def test_one_predicted_class_for_all_noise_is_only_a_remark(zoo):
    network = colour_network()
    with torch.no_grad():
        network.head.bias[2] = 1e3
    save(zoo.folder, "biased.safetensors", network)
    (report,) = zoo(["name: a, file: biased.safetensors"])
    assert report.state == SOUND
    assert report.remarks == ("it predicts `blue` for all 48 noise images; measure it with --images if you can",)


def test_a_teacher_without_batchnorm_gets_a_remark(zoo, monkeypatch):
    original = checking.make_card
    monkeypatch.setattr(checking, "make_card", lambda *entry: {**original(*entry), "batch_norm_layers": 0})
    (report,) = zoo(["name: a, file: good.safetensors"])
    assert (report.batch_norm_layers, report.state) == (0, SOUND)
    assert report.remarks == ("it has no BatchNorm layer: inversion cannot match statistics and uses its other losses only",)


# ---- real images ------------------------------------------------------------------------------------------------------------------------


def test_accuracy_is_measured_on_images_of_the_teachers_classes(zoo, photos):
    right, part = zoo(["name: a, file: good.safetensors", "name: b, file: good.safetensors, classes: [red, rouge, blue]"], images=photos)
    assert (right.accuracy, right.images, right.state) == (1.0, 120, SOUND)
    assert (part.accuracy, part.images) == (1.0, 80)
    assert "measured on 2 of its 3 classes, those with a folder" in part.remarks


def test_classes_in_another_order_are_no_better_than_chance(zoo, photos):
    (report,) = zoo(["name: a, file: good.safetensors, classes: [green, blue, red]"], images=photos)
    assert (report.accuracy, report.state) == (0.0, BROKEN)
    assert report.problems == ("accuracy 0.000 on 120 images, no better than chance; is the order of `classes` that of the logits?",)


def test_unknown_classes_are_not_measured(zoo, photos):
    (report,) = zoo(["name: a, file: good.safetensors, classes: [x, y, z]"], images=photos)
    assert (report.accuracy, report.images, report.state) == (None, 0, SOUND)
    assert report.remarks[0].startswith("not measured: none of its classes has a folder in ")


def test_images_for_grey_teachers_are_grey(photos):
    images, labels = checking.LabelledFolder(photos).images_of(("violet", "red"), 1, 16)
    assert images.shape == (80, 1, 16, 16) and images.dtype == torch.uint8
    assert labels.bincount().tolist() == [40, 40]
    assert images[labels == 1].float().mean().item() == pytest.approx((199 + 80) / 3, abs=1)


def test_an_invalid_folder_of_images_is_a_user_error(zoo, photos):
    with pytest.raises(UserError, match="--images: .*absent is not a folder"):
        zoo(["name: a, file: good.safetensors"], images=photos / "absent")
    with pytest.raises(UserError, match="expected at least 2 class folders, got 0"):
        zoo(["name: a, file: good.safetensors"], images=photos / "red")
