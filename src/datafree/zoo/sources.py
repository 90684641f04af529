"""Sources of checkpoints: a verified local file from a path, a URL, torchvision, timm or the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from datafree.errors import UserError
from datafree.extras import import_extra
from datafree.zoo import hashing, loading
from datafree.zoo.download import Limits, download
from datafree.zoo.manifest import Entry
from datafree.zoo.torchvision_weights import published

OFFLINE = "DATAFREE_OFFLINE"  # environment variable: use cached files only, without any connection


def offline() -> bool:
    return os.environ.get(OFFLINE, "") not in ("", "0")


def fetch(entry: Entry, manifest_folder: Path, cache: Path, limits: Limits | None = None) -> Path:
    """The verified local checkpoint of an entry that is not trained here; downloads once into ``cache``.

    Raises:
        UserError: missing file, failed download, another hash than expected, a link out of the folder, or offline and not in the cache.
    """
    expected = entry.sha256
    if entry.file:
        path = local_file(entry.file, manifest_folder)
    elif entry.url:
        path = _from_url(entry.url, expected, cache, limits)
    elif entry.torchvision:
        weights = published(entry.torchvision)
        expected = expected or weights.sha256
        path = _from_url(weights.url, expected, cache, limits)
    else:
        path = _from_hub(entry, cache)
    loading.verify(path, expected)
    return path


def class_names(entry: Entry) -> list[str]:
    """Class names of an entry that is not trained here, in the order of the logits: its own list, or that of torchvision's weights.

    Raises:
        UserError: torchvision's weights expect another normalisation than the entry's.
    """
    if not entry.torchvision:
        return entry.classes
    weights = published(entry.torchvision)
    for name in ("mean", "std"):
        if max(abs(a - b) for a, b in zip(getattr(entry, name), getattr(weights, name), strict=True)) > 0.01:
            raise UserError(
                f"{entry.name}: {name}: got {getattr(entry, name)}; {entry.torchvision} was trained with {list(getattr(weights, name))}"
            )
    return entry.classes or list(weights.classes)


def local_file(file: str, manifest_folder: Path) -> Path:
    """The path of ``file``, relative to the manifest.

    The user writes the manifest, so it may name any path. A symbolic link may have another author (an unpacked archive, for example): it
    must not lead out of the manifest's folder or, for a file outside that folder, out of the folder that the manifest names.

    Raises:
        UserError: a link leads out or is circular, or no file can have this path.
    """
    path = manifest_folder / file
    inside = Path(os.path.normpath(path)).is_relative_to(os.path.normpath(manifest_folder))
    home = manifest_folder if inside else path.parent
    try:
        real, real_home = path.resolve(), home.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # too long, circular links, a zero byte
        raise UserError(f"{path}: not the path of a file ({str(error)[:60]}); correct `file` in the manifest") from None
    if not real.is_relative_to(real_home):
        raise UserError(f"{path}: a symbolic link that leads out of {home}, to {real}; name the real path in the manifest")
    return path


def _from_url(url: str, sha256: str, cache: Path, limits: Limits | None) -> Path:
    name = re.sub(r"[^\w.-]", "_", urlsplit(url).path.rpartition("/")[2], flags=re.ASCII)[-80:]
    target = cache / f"{sha256[:16]}-{name or 'checkpoint'}"
    if target.is_file() and hashing.sha256(target).startswith(sha256):
        return target
    if offline():
        raise UserError(f"{url}: not in the cache, and {OFFLINE} is set; allow the network once, or put the file at {target}")
    return download(url, target, sha256, loading.MAX_BYTES, limits)


def _from_hub(entry: Entry, cache: Path) -> Path:
    """A file from the Hugging Face hub, in that library's own cache below ``cache``."""
    extra = "timm" if entry.timm else "hub"
    what = f"{entry.name}: {extra}: {entry.timm or entry.hub}"
    library = import_extra("huggingface_hub", extra, what)
    location = _timm_location(entry, what) if entry.timm else entry.hub
    address, _, revision = location.partition("@")
    owner, name, file = address.split("/", 2)
    options = {"repo_id": f"{owner}/{name}", "filename": file, "revision": revision or None}
    cached = library.try_to_load_from_cache(**options, cache_dir=cache / "hub")
    if isinstance(cached, str):
        return Path(cached)
    if offline():
        raise UserError(f"{what}: not in the cache, and {OFFLINE} is set; allow the network once")
    try:
        return _download_from_hub(library, options, cache)
    except UserError:
        raise
    except Exception as error:  # the library passes on the errors of several others
        raise UserError(f"{what}: download failed ({' '.join(str(error).split())[:160]}); check the name and the network") from None


def _download_from_hub(library: ModuleType, options: dict[str, str | None], cache: Path) -> Path:
    address = library.hf_hub_url(**options)
    size = library.get_hf_file_metadata(address).size
    if size is None or size > loading.MAX_BYTES:
        raise UserError(f"{address}: {size} bytes; a checkpoint may have at most {loading.MAX_BYTES}")
    return Path(library.hf_hub_download(**options, cache_dir=cache / "hub"))


def _timm_location(entry: Entry, what: str) -> str:
    """Location of a timm model's weights, in the form of a manifest's ``hub``."""
    timm = import_extra("timm", "timm", what)
    try:
        settings = timm.get_pretrained_cfg(entry.timm)
    except RuntimeError as error:
        raise UserError(f"{what}: {' '.join(str(error).split())[:160]}; see timm.list_pretrained()") from None
    if settings is None or not settings.hf_hub_id:
        raise UserError(f"{what}: timm has no weights of that name on the Hugging Face hub; see timm.list_pretrained()")
    repository, _, revision = settings.hf_hub_id.partition("@")
    return f"{repository}/{settings.hf_hub_filename or 'model.safetensors'}{'@' if revision else ''}{revision}"
