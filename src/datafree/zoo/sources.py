"""Getting a checkpoint's file onto this disk: a local path, or http(s) with hash and progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datafree.errors import UserError
from datafree.zoo import loading
from datafree.zoo.manifest import Entry


def fetch(entry: Entry, manifest_folder: Path, cache: Path) -> Path:
    """The verified local file of an entry whose source is ``file`` or ``url``; downloads once into ``cache``.

    Raises:
        UserError: missing file, failed download, or another hash than the manifest's.
    """
    path = manifest_folder / entry.file if entry.file else _download(entry.url, entry.sha256, cache)
    loading.verify(path, entry.sha256)
    return path


def _download(url: str, sha256: str, cache: Path) -> Path:
    import pooch
    import requests

    name = f"{sha256[:16]}-{Path(url).name or 'checkpoint'}"
    # pooch's own downloader does not meet pooch's own protocol by its parameters' names.
    downloader: Any = pooch.HTTPDownloader(timeout=30, chunk_size=2**16)
    try:
        path = pooch.retrieve(url, known_hash=f"sha256:{sha256}", fname=name, path=cache, downloader=downloader)
    except requests.RequestException as error:
        raise UserError(f"{url}: download failed ({' '.join(str(error).split())[:160]}); check the address and the network") from None
    except ValueError as error:
        raise UserError(f"{url}: not the file of the manifest ({' '.join(str(error).split())[:200]})") from None
    return Path(path)
