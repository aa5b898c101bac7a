"""Training a denoiser on images (Karras et al. 2022, arXiv:2206.00364): what makes a teacher.

    loss = E[ lambda(sigma) |D(x_0 + sigma eps; sigma, label, a) - x_0|^2 ]      Eq. 8
    ln sigma ~ N(P_mean, P_std^2)                                                Table 1
    lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2

with the mean over pixels, so that an untrained network's loss is about 1 whatever the image's size.
a is the augmentation's label (refiners.training.augmentation), zero where a sampler asks.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Protocol

import torch

from refiners.base import Images, Labels, Levels, Scalar
from refiners.knob import check_knobs, knob
from refiners.sigma_laws import add_noise, denoising_weight
from refiners.training.augmentation import augmented
from roles import Denoiser, Sigma


class Trainable(Denoiser, Protocol):
    """A denoiser that can be told how its images were augmented, see refiners.training."""

    def __call__(
        self,
        x: Images,
        sigma: Sigma,
        labels: Labels = None,
        *,
        augment_labels: torch.Tensor | None = None,
    ) -> Images:
        """Return D(x; sigma) of images that were augmented as augment_labels [n, 9] say."""
        ...


@dataclass(frozen=True)
class Denoising:
    """How a denoiser is trained; lengths, rates and averages are settings of the run."""

    p_mean: float = knob(
        -1.2,
        "Mean of ln sigma.",
        useful="-1.2 (EDM); -0.8 for digits of two tones",
        outside="Levels that are never drawn are never learned.",
        symbol="P_mean",
    )
    p_std: float = knob(
        1.2, "Standard deviation of ln sigma.", useful="1.2 (EDM)", symbol="P_std", above=0
    )
    sigma_data: float = knob(
        0.5,
        "Spread of the data that the network's preconditioning assumes; that of the network where "
        "it says one.",
        useful="0.5 (EDM)",
        symbol="sigma_data",
        above=0,
    )
    augment: float = knob(
        0.12,
        "Probability of each augmentation, of which the network is told and which its samples do "
        "not show: both flips, scaling, rotation, stretching, shifts. 0 is none.",
        useful="0.12 to 0.15 (EDM); 0 for short runs and many images",
        outside="Above, the network spends itself on what nobody asks for.",
        at_least=0,
        at_most=1,
    )
    xflip: bool = knob(
        False,
        "Mirror half of the images, which the samples then show: twice the data, where left and "
        "right do not matter.",
        useful="faces and animals; not text or digits",
    )
    rank: int = knob(
        0,
        "Of a network that is trained on, move changes of this rank alone, in its attention and "
        "1 x 1 convolutions, and what tells it of labels. 0 moves all of it.",
        useful="4 to 32, where images are few or memory is short",
        outside="Too low, and it cannot become the images' network.",
        at_least=0,
    )

    def __post_init__(self) -> None:
        """Raise ValueError naming the first knob that cannot be."""
        check_knobs(self)

    def loss(self, x_0: Images, labels: Labels, *, network: Trainable) -> Scalar:
        """Return the loss of images in [-1, 1] at drawn noise levels; a mean over the batch."""
        if self.xflip:
            mirrored = torch.rand([len(x_0), 1, 1, 1], device=x_0.device) < 0.5
            x_0 = torch.where(mirrored, x_0.flip(3), x_0)
        told = None
        if self.augment:
            x_0, told = augmented(x_0, self.augment)
        sigma = (torch.randn([len(x_0)], device=x_0.device) * self.p_std + self.p_mean).exp()
        denoised = network(add_noise(x_0, sigma), sigma, labels, augment_labels=told)
        return self.errors(denoised, x_0, sigma).mean()

    def errors(self, denoised: Images, x_0: Images, sigma: Levels) -> Levels:
        """Return each image's weighted mean square error, about 1 for a network that knows nothing.

        1 is what F = 0 has for data of spread sigma_data, at any noise level.
        """
        weight = denoising_weight(sigma, self.sigma_data)
        return weight * (denoised - x_0).square().mean(dim=[1, 2, 3])

    def levels(self, quantiles: torch.Tensor) -> torch.Tensor:
        """Return the noise levels below which these shares of the law lie."""
        return (torch.special.ndtri(quantiles) * self.p_std + self.p_mean).exp()


class DenoisingLoss(torch.nn.Module):
    """The loss as a module, for that is what several processes share the gradient of."""

    def __init__(self, method: Denoising, network: Trainable):
        super().__init__()
        self.method, self.network = method, network

    def forward(self, x_0: Images, labels: Labels) -> Scalar:
        """Return the mean loss of a piece of a batch."""
        return self.method.loss(x_0, labels, network=self.network)


def follower(network: Trainable) -> Trainable:
    """Return a copy in eval mode without gradients, for the average."""
    return copy.deepcopy(network).eval().requires_grad_(False)
