"""The embedded example: three small MNIST networks, made by train.py, used by `refine.py demo`."""
