import hashlib
import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from datafree.config import BackboneConfig
from datafree.zoo import sources
from datafree.zoo.backbones import Classifier, build
from datafree.zoo.manifest import read_manifest
from datafree.zoo.teachers import load_checkpoint

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "manifest_from_index.py"


def test_an_index_becomes_a_manifest_whose_teachers_load(tmp_path):
    zoo, manifests = tmp_path / "published" / "zoo", tmp_path / "zoos"
    zoo.mkdir(parents=True)
    manifests.mkdir()
    index, networks = [], {}
    for number in range(3):
        network = Classifier(build(BackboneConfig("conv4", 8), 3, 32, seed=number), 2)
        state = {name.removeprefix("backbone.").replace("head", "classifier"): value for name, value in network.state_dict().items()}
        save_file({name: value.contiguous() for name, value in state.items()}, zoo / f"t{number}.safetensors")
        digest = hashlib.sha256((zoo / f"t{number}.safetensors").read_bytes()).hexdigest()
        index.append({"name": f"t-{number}", "file": f"t{number}.safetensors", "sha256": digest, "classes": ["no", "1"], "seed": number})
        networks[f"t-{number}"] = network
    (zoo / "index.json").write_text(json.dumps(index))
    options = ["--width", "8", "--mean", "0.1", "0.2", "0.3", "--licence", "CC0"]
    subprocess.run([sys.executable, SCRIPT, zoo / "index.json", manifests / "z.yaml", *options], check=True, capture_output=True)
    entries = read_manifest(manifests / "z.yaml")
    assert [entry.name for entry in entries] == list(networks)
    for entry in entries:
        assert entry.file.startswith("../published/zoo/t")
        assert (entry.classes, entry.licence, entry.mean, entry.architecture.width) == (["no", "1"], "CC0", [0.1, 0.2, 0.3], 8)
        loaded = load_checkpoint(entry, sources.fetch(entry, manifests, Path("unused")), 2)
        images = torch.randn(2, 3, 32, 32)
        assert torch.equal(loaded.eval()(images), networks[entry.name].eval()(images))
