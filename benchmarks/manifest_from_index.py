"""Convert the index of a published zoo to a manifest.

    python benchmarks/manifest_from_index.py data/zoo_cifarfs_conv4/index.json zoos/cifar-fs-published.yaml

The index is a JSON list; each item has ``name``, ``file`` (in the index's folder), ``sha256`` and ``classes`` (in the order of the logits).
The options give what all teachers have in common; their defaults fit a zoo of 100 five-way Conv4 classifiers on CIFAR-FS.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import yaml

from datafree import artifacts
from datafree.errors import exit_on_user_error
from datafree.zoo.manifest import read_manifest


def manifest(index: list[dict[str, Any]], folder: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """The manifest for an index; ``folder`` is the path of its files relative to the manifest."""
    teachers = [
        {"name": item["name"], "file": f"{folder}/{item['file']}", "sha256": item["sha256"], "classes": item["classes"]} for item in index
    ]
    return {"defaults": defaults, "teachers": teachers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path, help="index.json of the zoo")
    parser.add_argument("output", type=Path, help="the manifest to write")
    parser.add_argument("--architecture", default="conv4")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--input", type=int, nargs=3, default=[3, 32, 32], metavar=("CHANNELS", "HEIGHT", "WIDTH"))
    parser.add_argument("--mean", type=float, nargs="+", default=[0.5071, 0.4867, 0.4408])
    parser.add_argument("--std", type=float, nargs="+", default=[0.2675, 0.2565, 0.2761])
    parser.add_argument(
        "--keys", type=json.loads, default={"classifier": "head", "": "backbone"}, help="JSON; see docs/bring-your-own-zoo.md"
    )
    parser.add_argument("--licence", default="unknown")
    given = parser.parse_args()
    defaults = {
        "architecture": {"name": given.architecture, "width": given.width},
        "input": given.input,
        "mean": given.mean,
        "std": given.std,
        "keys": given.keys,
        "licence": given.licence,
    }
    folder = Path(os.path.relpath(given.index.parent.resolve(), given.output.parent.resolve())).as_posix()
    tree = manifest(artifacts.read_json(given.index), folder, defaults)
    artifacts.write_text(given.output, yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=140))
    print(f"{given.output}: {len(read_manifest(given.output))} teachers")


if __name__ == "__main__":
    with exit_on_user_error("manifest_from_index"):
        main()
