"""The teacher zoo: manifests, sources, safe loading of checkpoints, backbones, checks of weights."""
