"""FastGAN (Liu et al. 2021, arXiv:2101.04775), of its own program and of Projected GAN's."""
