"""Few-shot tasks over recovered pools: pools, episodes, teacher reliability."""
