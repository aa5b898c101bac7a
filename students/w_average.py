"""The mean of w, which truncation pulls to, of a mapping network that has moved."""

from __future__ import annotations

import torch

from roles import Network

NUM_LATENTS = 10_000  # as StyleGAN's own projector takes for the same mean


@torch.no_grad()
def estimate_w_avg(network: Network, *, seed: int = 0) -> bool:
    """Put the mean w of NUM_LATENTS latents into the network's w_avg; False where it has none.

    A w_avg of each class, [c_dim, w_dim], is a mean over as many latents of that class. One of all,
    [w_dim], is over classes drawn uniformly, as in training.
    """
    mapping = getattr(network, "mapping", None)
    w_avg = getattr(mapping, "w_avg", None)
    if not isinstance(mapping, torch.nn.Module) or not isinstance(w_avg, torch.Tensor):
        return False
    z_dim, c_dim = getattr(network, "z_dim", 0), getattr(network, "c_dim", 0)
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn([NUM_LATENTS, z_dim], generator=generator).to(w_avg.device)
    one_hot = torch.eye(c_dim, device=w_avg.device)
    was_training = mapping.training
    mapping.eval()
    if w_avg.ndim == 2:
        means = [mapping(z, one_hot[[k]].expand(len(z), -1))[:, 0].mean(0) for k in range(c_dim)]
        w_avg.copy_(torch.stack(means))
    else:
        drawn = torch.randint(max(c_dim, 1), [NUM_LATENTS], generator=generator)
        w_avg.copy_(mapping(z, one_hot[drawn.to(w_avg.device)] if c_dim else None)[:, 0].mean(0))
    mapping.train(was_training)
    return True
