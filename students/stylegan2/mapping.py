"""The mapping network, latents and labels to w (Karras et al. 2019, arXiv:1812.04948, sec. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float

from students.base import check_labels, check_latents
from students.layers import FullyConnectedLayer, normalize_2nd_moment


def add_layers(
    mapping: torch.nn.Module, features: Sequence[int], *, activation: str, lr_multiplier: float
) -> None:
    """Give a mapping its layers fc0, fc1, ... between these numbers of features."""
    for i, (before, after) in enumerate(pairwise(features)):
        layer = FullyConnectedLayer(
            before, after, activation=activation, lr_multiplier=lr_multiplier
        )
        mapping.add_module(f"fc{i}", layer)


def truncated(
    ws: Float[torch.Tensor, "n num_ws w_dim"],
    mean: Float[torch.Tensor, "*#n w_dim"],
    *,
    psi: float,
    cutoff: int | None,
) -> Float[torch.Tensor, "n num_ws w_dim"]:
    """Return mean + psi (ws - mean) for the first cutoff (None: all) of ws [n, num_ws, w_dim]."""
    cut = ws.shape[1] if cutoff is None else cutoff
    return torch.cat([mean.to(ws.dtype).lerp(ws[:, :cut], psi), ws[:, cut:]], dim=1)


class MappingNetwork(torch.nn.Module):
    """(z, c) -> w, repeated num_ws times.

    Generators map z, and c where they have classes; discriminators map c alone (z_dim 0) and keep
    one w (num_ws None).
    """

    w_avg: torch.Tensor

    def __init__(
        self,
        *,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.995,
    ):
        if not z_dim and not c_dim:
            raise ValueError("z_dim and c_dim are both 0; a mapping needs latents or classes")
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.num_ws = num_ws
        self.num_layers = num_layers
        self.w_avg_beta = w_avg_beta
        embed = 0 if c_dim == 0 else w_dim if embed_features is None else embed_features
        hidden = w_dim if layer_features is None else layer_features
        if num_layers == 0 and z_dim + embed != w_dim:
            raise ValueError(
                f"num_layers is 0, so w has the {z_dim + embed} features of z and the label's "
                f"embedding; w_dim is {w_dim}"
            )
        features = [z_dim + embed] + [hidden] * (num_layers - 1) + [w_dim]
        features = features[: num_layers + 1]  # no layer: z and the embedding are w
        if c_dim:
            self.embed = FullyConnectedLayer(c_dim, embed)
        add_layers(self, features, activation=activation, lr_multiplier=lr_multiplier)
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros([w_dim]))

    def forward(
        self,
        z: Float[torch.Tensor, "n z_dim"] | None,
        c: Float[torch.Tensor, "n c_dim"] | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Float[torch.Tensor, "n *num_ws w_dim"]:
        """Return ws [n, num_ws, w_dim], or [n, w_dim] where num_ws is None; always float32.

        In training mode the running mean w_avg follows the batch.

        Args:
            z: latents [n, z_dim]; not looked at where z_dim is 0.
            c: one-hot labels [n, c_dim]; not looked at where c_dim is 0.
            truncation_psi: pulls ws to w_avg, w_avg + psi (w - w_avg); 1 is no truncation.
            truncation_cutoff: how many of the ws are truncated, from the first; None means all.

        Raises:
            ValueError: latents or labels of another shape, truncation without a w_avg.
        """
        w = self.embedded(z, c)
        for i in range(self.num_layers):
            w = getattr(self, f"fc{i}")(w)
        if self.num_ws is None:
            return w
        if self.training and self.w_avg_beta is not None:
            w_avg = self.w_avg.to(w.dtype)
            self.w_avg.copy_(w.detach().mean(dim=0).lerp(w_avg, self.w_avg_beta))
        ws = w.unsqueeze(1).repeat(1, self.num_ws, 1)
        if truncation_psi == 1:
            return ws
        if self.w_avg_beta is None:
            raise ValueError("this network keeps no w_avg, so truncation_psi must be 1")
        return truncated(ws, self.w_avg, psi=truncation_psi, cutoff=truncation_cutoff)

    def embedded(
        self, z: Float[torch.Tensor, "n z_dim"] | None, c: Float[torch.Tensor, "n c_dim"] | None
    ) -> Float[torch.Tensor, "n d"]:
        """Return the first layer's input [n, z_dim + embedding]: both parts of unit mean square."""
        parts = []
        if self.z_dim:
            parts.append(normalize_2nd_moment(check_latents(z, self.z_dim).float()))
        if self.c_dim:
            labels = check_labels(c, self.c_dim, parts[0].shape[0] if parts else None)
            parts.append(normalize_2nd_moment(self.embed(labels.float())))
        return torch.cat(parts, dim=1)
