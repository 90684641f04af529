"""The DARTS search space: a normal and a reduction cell, two operations per node (Liu et al., ICLR 2019)."""
