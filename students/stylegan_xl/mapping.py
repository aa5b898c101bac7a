"""StyleGAN-XL's mapping network (Sauer et al. 2022, arXiv:2202.00273, sections 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float

from students.base import check_labels, check_latents
from students.layers import FullyConnectedLayer, normalize_2nd_moment
from students.stylegan2.mapping import add_layers, truncated

# ImageNet's classes, and the pooled features of the classifier that the authors embed them with.
EMBEDDING = (1000, 320)


class MappingNetwork(torch.nn.Module):
    """(z, c) -> w, repeated num_ws times; the class enters through its row of an embedding."""

    w_avg: torch.Tensor

    def __init__(
        self,
        *,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int,
        num_layers: int = 2,
        lr_multiplier: float = 0.01,
        w_avg_beta: float = 0.998,
        embedding: Sequence[int] = EMBEDDING,
    ):
        """Make a network with new weights.

        Args:
            z_dim: length of a latent, and of a class's projected embedding.
            c_dim: number of classes; 0 means unconditional.
            w_dim: length of a w.
            num_ws: how many ws are returned.
            num_layers: fully connected layers.
            lr_multiplier: learning rate of these layers over that of the others.
            w_avg_beta: weight of the past in the running mean of w.
            embedding: rows and features of the classifier's embedding, which files have without
                classes as well.

        Raises:
            ValueError: more classes than the embedding has rows.
        """
        super().__init__()
        rows, features = embedding
        if c_dim > rows:
            raise ValueError(f"c_dim is {c_dim}; the embedding of classes has {rows} rows")
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.num_ws = num_ws
        self.num_layers = num_layers
        self.w_avg_beta = w_avg_beta
        self.init_kwargs = {
            "z_dim": z_dim,
            "c_dim": c_dim,
            "w_dim": w_dim,
            "num_ws": num_ws,
            "num_layers": num_layers,
            "lr_multiplier": lr_multiplier,
            "w_avg_beta": w_avg_beta,
        }
        self.embed = torch.nn.Embedding(rows, features)
        if c_dim:
            self.embed_proj = FullyConnectedLayer(features, z_dim, activation="lrelu")
        widths = [2 * z_dim if c_dim else z_dim] + [w_dim] * num_layers
        if widths[-1] != w_dim:
            raise ValueError(f"num_layers is 0, so w has {widths[-1]} features; w_dim is {w_dim}")
        add_layers(self, widths, activation="lrelu", lr_multiplier=lr_multiplier)
        self.register_buffer("w_avg", torch.zeros([c_dim, w_dim] if c_dim else [w_dim]))

    def forward(
        self,
        z: Float[torch.Tensor, "n z_dim"],
        c: Float[torch.Tensor, "n c_dim"] | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Float[torch.Tensor, "n num_ws w_dim"]:
        """Return ws [n, num_ws, w_dim], always float32.

        In training mode the running means w_avg follow the batch, each class's its own samples.

        Args:
            z: latents [n, z_dim].
            c: one-hot labels [n, c_dim]; not looked at where c_dim is 0.
            truncation_psi: pulls ws to the w_avg of their class; 1 is no truncation.
            truncation_cutoff: how many of the ws are truncated, from the first; None means all.

        Raises:
            ValueError: latents or labels of another shape.
        """
        w = normalize_2nd_moment(check_latents(z, self.z_dim).float())
        classes = check_labels(c, self.c_dim, w.shape[0]).argmax(dim=1) if self.c_dim else None
        if classes is not None:
            y = self.embed_proj(self.embed(classes).float())
            w = torch.cat([w, normalize_2nd_moment(y)], dim=1)
        for i in range(self.num_layers):
            w = getattr(self, f"fc{i}")(w)
        if self.training:
            self.w_avg.copy_(self._averaged(w.detach(), classes))
        ws = w.unsqueeze(1).repeat(1, self.num_ws, 1)
        if truncation_psi == 1:
            return ws
        mean = self.w_avg if classes is None else self.w_avg[classes].unsqueeze(1)
        return truncated(ws, mean, psi=truncation_psi, cutoff=truncation_cutoff)

    def _averaged(self, w: torch.Tensor, classes: torch.Tensor | None) -> torch.Tensor:
        """Return w_avg after these w [n, w_dim]; the samples of a class count one by one."""
        mean = self.w_avg.to(w.dtype)
        if classes is None:
            return w.mean(dim=0).lerp(mean, self.w_avg_beta)
        member = torch.nn.functional.one_hot(classes, self.c_dim).to(w.dtype)
        # After sample i of a class, its older content is decayed once by each later sample.
        later = ((member.sum(dim=0) - member.cumsum(dim=0)) * member).sum(dim=1)
        share = (1 - self.w_avg_beta) * self.w_avg_beta**later
        kept = self.w_avg_beta ** member.sum(dim=0)
        return mean * kept[:, None] + (member * share[:, None]).T @ w
