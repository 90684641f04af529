import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from datafree.errors import UserError
from datafree.zoo import loading, sources
from datafree.zoo.download import Limits
from datafree.zoo.manifest import Entry
from datafree.zoo.sources import class_names, fetch
from datafree.zoo.torchvision_weights import published

LIMITS = Limits(stall=1, total=10, attempts=2, backoff=0)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- local files ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def zoos(tmp_path):
    (tmp_path / "zoos" / "inner").mkdir(parents=True)
    (tmp_path / "zoos" / "inner" / "w.pth").write_bytes(b"weights")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "w.pth").write_bytes(b"secret")
    return tmp_path / "zoos"


@pytest.mark.parametrize("file", ["inner/w.pth", "./inner/../inner/w.pth", "../zoos/inner/w.pth", "../elsewhere/w.pth"])
def test_a_file_is_found_from_the_manifests_folder_and_checked(zoos, file):
    entry = Entry(name="x", file=file)
    assert fetch(entry, zoos, Path("unused")) == zoos / file
    entry.sha256 = "0" * 64
    with pytest.raises(UserError, match="w.pth: SHA-256 is"):
        fetch(entry, zoos, Path("unused"))


def test_an_absolute_path_is_allowed(zoos):
    path = zoos.parent / "elsewhere" / "w.pth"
    assert fetch(Entry(name="x", file=str(path)), zoos, Path("unused")) == path


def test_a_missing_file_is_named(zoos):
    with pytest.raises(UserError, match="absent.pth: the checkpoint is missing"):
        fetch(Entry(name="x", file="absent.pth"), zoos, Path("unused"))


@pytest.mark.parametrize(
    ("link", "target", "file"),
    [
        ("link.pth", "../elsewhere/w.pth", "link.pth"),
        ("folder", "../elsewhere", "folder/w.pth"),
        ("folder", "/", "folder/etc/passwd"),
        ("../elsewhere/link.pth", "../zoos/inner/w.pth", "../elsewhere/link.pth"),
        ("first", "second", "first/w.pth"),
    ],
)
def test_a_link_out_of_the_folder_is_refused(zoos, link, target, file):
    if link == "first":  # a link to a link
        (zoos / "second").symlink_to("../elsewhere")
    (zoos / link).symlink_to(target)
    with pytest.raises(UserError, match="a symbolic link that leads out of .*; name the real path in the manifest"):
        fetch(Entry(name="x", file=file), zoos, Path("unused"))


def test_a_link_within_the_folder_is_followed(zoos):
    (zoos / "link.pth").symlink_to("inner/w.pth")
    assert fetch(Entry(name="x", file="link.pth"), zoos, Path("unused")).read_bytes() == b"weights"


def test_the_manifest_folder_may_be_a_link(zoos):
    (zoos.parent / "linked").symlink_to("zoos")
    assert fetch(Entry(name="x", file="inner/w.pth"), zoos.parent / "linked", Path("unused")).read_bytes() == b"weights"


# ---- the web ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def entry(web):
    def make(path):
        return Entry(name="x", url=web.url(path), sha256=digest(web.content), classes=["a", "b"])

    return make


def test_a_download_is_verified_and_cached(web, entry, tmp_path):
    path = fetch(entry("/good.pth?version=1"), tmp_path, tmp_path / "cache", LIMITS)
    assert path == tmp_path / "cache" / f"{digest(web.content)[:16]}-good.pth"
    assert path.read_bytes() == web.content
    assert fetch(entry("/good.pth?version=1"), tmp_path, tmp_path / "cache", LIMITS) == path
    assert len(web.requests) == 1


def test_a_damaged_file_in_the_cache_is_fetched_again(web, entry, tmp_path):
    path = fetch(entry("/good.pth"), tmp_path, tmp_path / "cache", LIMITS)
    path.write_bytes(web.content[:-1])
    assert fetch(entry("/good.pth"), tmp_path, tmp_path / "cache", LIMITS).read_bytes() == web.content


@pytest.mark.parametrize(("path", "name"), [("/", "checkpoint"), ("/%2e%2e%2fé;x\\..", "_2e_2e_2f__x_.."), ("/" + "a" * 300, "a" * 80)])
def test_an_address_cannot_choose_a_path_outside_the_cache(web, tmp_path, path, name):
    url = web.url(path)
    with pytest.raises(UserError, match="404"):
        fetch(Entry(name="x", url=url, sha256="0" * 64), tmp_path, tmp_path / "cache", LIMITS)
    (tmp_path / "cache" / f"{digest(b'w')[:16]}-{name}").write_bytes(b"w")
    found = fetch(Entry(name="x", url=url, sha256=digest(b"w")), tmp_path, tmp_path / "cache", LIMITS)
    assert found.name == f"{digest(b'w')[:16]}-{name}"


def test_a_download_beyond_the_limit_is_refused(entry, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "MAX_BYTES", 100)
    with pytest.raises(UserError, match="10240 bytes; a checkpoint may have at most 100"):
        fetch(entry("/good.pth"), tmp_path, tmp_path / "cache", LIMITS)
    assert list((tmp_path / "cache").iterdir()) == []


def test_offline_the_cache_is_used_and_a_missing_file_is_named(web, entry, tmp_path, monkeypatch):
    path = fetch(entry("/good.pth"), tmp_path, tmp_path / "cache", LIMITS)
    web.requests.clear()
    monkeypatch.setenv("DATAFREE_OFFLINE", "1")
    assert fetch(entry("/good.pth"), tmp_path, tmp_path / "cache", LIMITS) == path
    with pytest.raises(UserError, match="/moved: not in the cache, and DATAFREE_OFFLINE is set; .* put the file at .*-moved$"):
        fetch(entry("/moved"), tmp_path, tmp_path / "cache", LIMITS)
    with pytest.raises(UserError, match="resnet18-f37072fd.pth: not in the cache, and DATAFREE_OFFLINE is set"):
        fetch(Entry(name="x", torchvision="ResNet18_Weights.IMAGENET1K_V1"), tmp_path, tmp_path / "cache", LIMITS)
    assert web.requests == []
    monkeypatch.setenv("DATAFREE_OFFLINE", "0")
    assert fetch(entry("/moved"), tmp_path, tmp_path / "cache", LIMITS).read_bytes() == web.content


# ---- torchvision's published weights ----------------------------------------------------------------------------------------------------


def test_published_weights_have_address_hash_classes_and_normalisation():
    weights = published("ResNet18_Weights.IMAGENET1K_V1")
    assert weights.url == "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert weights.sha256 == "f37072fd"
    assert len(weights.classes) == len(set(weights.classes)) == 1000
    assert weights.classes[:2] == ("tench", "goldfish")
    assert (weights.mean, weights.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert published("GoogLeNet_Weights.IMAGENET1K_V1").mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    "name",
    [
        "ResNet18_Weights.IMAGENET1K_V9",
        "Absent_Weights.DEFAULT",
        "VGG16_Weights.IMAGENET1K_FEATURES",
        "FasterRCNN_ResNet50_FPN_Weights.COCO_V1",
    ],
)
def test_weights_that_are_unknown_or_of_no_classifier_are_refused(name):
    with pytest.raises(UserError, match="^torchvision: ") as caught:
        published(name)
    assert "\n" not in str(caught.value)


def test_published_weights_are_downloaded_by_the_hash_in_their_name(web, tmp_path, monkeypatch):
    weights = SimpleNamespace(url=web.url("/good.pth"), sha256=digest(web.content)[:8])
    monkeypatch.setattr(sources, "published", lambda _: weights)
    path = fetch(Entry(name="x", torchvision="A_Weights.B"), tmp_path, tmp_path / "cache", LIMITS)
    assert path.read_bytes() == web.content
    weights.sha256 = "00000000"
    with pytest.raises(UserError, match="not the file of the manifest"):
        fetch(Entry(name="x", torchvision="A_Weights.B"), tmp_path, tmp_path / "cache", LIMITS)


def test_classes_are_those_of_the_entry_or_of_the_weights():
    entry = Entry(name="x", torchvision="ResNet18_Weights.IMAGENET1K_V1", mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    assert class_names(entry)[0] == "tench"
    assert len(class_names(entry)) == entry.class_count
    entry.classes = ["a", "b"]
    assert class_names(entry) == ["a", "b"]
    assert class_names(Entry(name="x", file="f", classes=["c", "d"])) == ["c", "d"]
    entry.std = [0.25, 0.25, 0.25]
    with pytest.raises(UserError, match=r"^x: std: got \[0.25, 0.25, 0.25\]; ResNet18_Weights.IMAGENET1K_V1 was trained with \[0.229, "):
        class_names(entry)


# ---- the Hugging Face hub ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A fake of the package huggingface_hub with two repositories; returns the list of metadata requests."""
    stored = {("owner/name", "a/w.pth", None): b"weights", ("timm/tiny.a1", "model.safetensors", "v2"): b"other"}
    calls = []

    def cached_path(repo_id, filename, revision, cache_dir):
        return Path(cache_dir) / repo_id / filename / str(revision)

    def try_to_load_from_cache(repo_id, filename, cache_dir, revision):
        path = cached_path(repo_id, filename, revision, cache_dir)
        return str(path) if path.exists() else None

    def hf_hub_url(repo_id, filename, revision):
        return (repo_id, filename, revision)

    def get_hf_file_metadata(url):
        calls.append(url)
        if url not in stored:
            raise LookupError("404: no such\nrepository")
        return SimpleNamespace(size=len(stored[url]))

    def hf_hub_download(repo_id, filename, revision, cache_dir):
        path = cached_path(repo_id, filename, revision, cache_dir)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stored[repo_id, filename, revision])
        return str(path)

    functions = (try_to_load_from_cache, hf_hub_url, get_hf_file_metadata, hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(**{function.__name__: function for function in functions}))
    monkeypatch.delenv("DATAFREE_OFFLINE", raising=False)
    return calls


@pytest.fixture
def timm(monkeypatch):
    def get_pretrained_cfg(name):
        if name == "broken":
            raise RuntimeError("no such\ntag")
        return None if name == "absent" else SimpleNamespace(hf_hub_id="timm/tiny.a1@v2", hf_hub_filename=None)

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(get_pretrained_cfg=get_pretrained_cfg))


def test_a_file_of_the_hub_is_downloaded_once_and_checked(hub, tmp_path, monkeypatch):
    entry = Entry(name="x", hub="owner/name/a/w.pth", sha256=digest(b"weights"))
    path = fetch(entry, tmp_path, tmp_path / "cache")
    assert path.read_bytes() == b"weights"
    assert path.is_relative_to(tmp_path / "cache" / "hub")
    monkeypatch.setenv("DATAFREE_OFFLINE", "1")
    assert fetch(entry, tmp_path, tmp_path / "cache") == path
    assert len(hub) == 1
    entry.sha256 = "0" * 64
    with pytest.raises(UserError, match="SHA-256 is"):
        fetch(entry, tmp_path, tmp_path / "cache")


def test_the_location_of_timm_weights_comes_from_timm(hub, timm, tmp_path):
    assert fetch(Entry(name="x", timm="tiny.a1", sha256=digest(b"other")), tmp_path, tmp_path / "cache").read_bytes() == b"other"
    assert hub == [("timm/tiny.a1", "model.safetensors", "v2")]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"hub": "owner/name/b.pth"}, "x: hub: owner/name/b.pth: download failed .404: no such repository.; check the name"),
        ({"hub": "owner/name/a/w.pth@v3"}, "x: hub: owner/name/a/w.pth@v3: download failed"),
        ({"timm": "absent"}, "x: timm: absent: timm has no weights of that name on the Hugging Face hub"),
        ({"timm": "broken"}, "x: timm: broken: no such tag; see"),
    ],
)
def test_a_file_missing_on_the_hub_is_a_one_line_error(hub, timm, tmp_path, source, message):
    with pytest.raises(UserError, match=f"^{message}") as caught:
        fetch(Entry(name="x", sha256="0" * 64, **source), tmp_path, tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_large_file_of_the_hub_is_not_fetched(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "MAX_BYTES", 3)
    with pytest.raises(UserError, match="7 bytes; a checkpoint may have at most 3"):
        fetch(Entry(name="x", hub="owner/name/a/w.pth", sha256="0" * 64), tmp_path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_offline_the_hub_is_not_contacted(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("DATAFREE_OFFLINE", "1")
    with pytest.raises(UserError, match="^x: hub: owner/name/a/w.pth: not in the cache, and DATAFREE_OFFLINE is set"):
        fetch(Entry(name="x", hub="owner/name/a/w.pth", sha256="0" * 64), tmp_path, tmp_path / "cache")
    assert hub == []


@pytest.mark.parametrize(("source", "package"), [("hub", "huggingface_hub"), ("timm", "huggingface_hub"), ("timm", "timm")])
def test_a_missing_extra_is_named(hub, timm, tmp_path, monkeypatch, source, package):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    entry = Entry(name="x", sha256="0" * 64, **{source: "owner/name/f" if source == "hub" else "tiny"})
    with pytest.raises(
        UserError, match=rf"^x: {source}: .*: needs the package {package}; install it with `pip install 'datafree\[{source}\]'`"
    ):
        fetch(entry, tmp_path, tmp_path / "cache")
