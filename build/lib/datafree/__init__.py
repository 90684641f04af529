"""datafree: few-shot meta-learners and compact architectures from pretrained classifiers, without their training data."""

__version__ = "0.1.0"
