"""Configuration: the typed schema of ``params.yaml`` (``schema``) and the one place that validates it (``validation``)."""

from datafree.config.schema import *  # noqa: F403  (the schema's classes are this package's public names)
from datafree.config.validation import as_tree, load, merge, resolve, select, typed

__all__ = ["as_tree", "load", "merge", "resolve", "select", "typed"]
