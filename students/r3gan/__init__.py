"""R3GAN (Huang et al. 2024, arXiv:2501.05441)."""
