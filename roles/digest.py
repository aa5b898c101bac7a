"""What a network is known by: a hash of its tensors' values."""

from __future__ import annotations

import hashlib

import torch

from roles.network import Network


def digest_of(network: Network) -> str:
    """Return the SHA-256, in hexadecimal, of a network's parameters and buffers by name.

    Names, dtypes, shapes and values count, not how they lie in memory or on which device.
    """
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        value = tensor.detach().cpu()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        # One axis first: where a size is 1, contiguous() keeps strides that no view as bytes takes.
        flat = value.reshape(-1).contiguous()
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
