"""The slim ResNet search space: the width and depth of each stage of a residual network."""
