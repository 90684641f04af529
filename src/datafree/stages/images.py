"""Stage ``images``: real images, the embedded glyphs or a user's folders, as one image set per split."""

from __future__ import annotations

from datafree import artifacts
from datafree.config import DataConfig, typed
from datafree.data import SPLITS
from datafree.data.folder import folder_images
from datafree.data.glyphs import glyph_images
from datafree.data.images import ImageSet, check_disjoint
from datafree.data.preview import preview
from datafree.stages.files.image_sets import write_image_set
from datafree.workflow.provenance import Job

FOLDER = "artifacts/data"
READS = ("seed", "data", "image_files")


def run(job: Job) -> None:
    """No inputs. Outputs: ``train``, ``validation``, ``test``, ``preview``, ``metrics``."""
    data: DataConfig = typed(DataConfig, job.config["data"])
    sets = {split: _load(data, split, job.config["seed"]) for split in SPLITS}
    check_disjoint(sets)
    for split, image_set in sets.items():
        write_image_set(job.output(split), image_set)
    artifacts.write_image(job.output("preview"), preview(sets.values()))
    # The content hash distinguishes two versions of a user's folder under the same configuration.
    metrics = {
        split: {"classes": len(image_set.classes), "images": len(image_set.labels), "sha256": artifacts.sha256(job.output(split))}
        for split, image_set in sets.items()
    }
    artifacts.write_json(job.output("metrics"), metrics)


def _load(data: DataConfig, split: str, seed: int) -> ImageSet:
    if data.folder is not None:  # only with data.source: folder
        return folder_images(data.folder, split, data.image_size)
    return glyph_images(data.glyphs, split, data.image_size, seed)
