"""The embedded example: three small networks trained on MNIST by train.py, which `refine.py demo` uses."""
