"""The MBConv search spaces: chains of inverted residual blocks, for small images and for ImageNet (Cai et al., ICLR 2019)."""
