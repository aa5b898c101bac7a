"""StyleGAN-XL (Sauer et al. 2022, arXiv:2202.00273)."""
