"""Evaluation: few-shot accuracy with intervals, baselines and oracles, quality of recovered images."""
