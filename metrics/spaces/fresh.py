"""A feature space made for one run: a small classifier, trained on given images and nothing else.

No method sees it, so a student cannot have been trained towards it; and where images bring classes,
it ranks generators as a classifier of real images does (docs/experiments.md, "A judge that did not
see the training"). Without classes it learns by how much an image was turned (Gidaris et al. 2018,
arXiv:1803.07728). Numbers made here compare only with each other; they are no FID.
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy, one_hot

from metrics.spaces.features import Classifier, ClassifierFeatures
from roles.pixels import from_uint8

WIDTHS = (16, 32, 64)
NUM_FEATURES = 64
BATCH, RATE = 64, 2e-3
EPOCHS, LEAST_STEPS, MOST_STEPS = 15, 50, 600
SHIFT = 2  # pixels, at most, by which training images are moved
LARGEST = 64  # pixels; larger images are averaged down
TURNS = 4


class FreshFeatures:
    """Of uint8 images [n, c, h, w]: the penultimate layer of a classifier of fresh_features.

    Attributes:
        name: what reports call the space.
        dim: the number of features.
        sha256: hash of the weights.
    """

    def __init__(self, features: ClassifierFeatures, shrink: int, name: str):
        self.features, self.shrink, self.name = features, shrink, name
        self.dim = features.dim
        self.sha256 = hashlib.sha256(f"{features.sha256} {shrink}".encode()).hexdigest()

    @torch.no_grad()
    def __call__(
        self, images: UInt8[Tensor, "n c h w"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"] | None]:
        """Return features in float32 and class probabilities, None where it has no classes."""
        device = next(self.features.classifier.parameters()).device
        values, logits = self.features.classifier(
            shrunk(from_uint8(images.to(device)), self.shrink)
        )
        classes = logits is not None and self.name.endswith("classes)")
        return values, logits.softmax(1) if classes and logits is not None else None


def fresh_features(
    images: UInt8[Tensor, "m c h w"],
    labels: Float[Tensor, "m k"] | None = None,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> FreshFeatures:
    """Train a small classifier on images and return its features.

    Args:
        images: uint8, square; a thousand and more.
        labels: their classes, one-hot; None learns turns by right angles.
        seed: of weights and draws; torch's own stream is left as it was.
        device: where to train.
    """
    steps = min(max(EPOCHS * len(images) // BATCH, LEAST_STEPS), MOST_STEPS)
    shrink = max(1, -(-images.shape[2] // LARGEST))
    known = labels is not None and labels.shape[1] > 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(
            img_resolution=-(-images.shape[2] // shrink),
            img_channels=images.shape[1],
            widths=WIDTHS,
            num_features=NUM_FEATURES,
            num_classes=labels.shape[1] if labels is not None and known else TURNS,
        ).to(device)
        optimiser = torch.optim.Adam(classifier.parameters(), lr=RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            pick = torch.randint(len(images), [BATCH])
            x = shrunk(from_uint8(images[pick].to(device)), shrink)
            down, right = torch.randint(-SHIFT, SHIFT + 1, [2]).tolist()
            x = x.roll((down, right), dims=(2, 3))
            if labels is not None and known:
                target = labels[pick].to(device)
            else:
                turns = torch.randint(TURNS, [BATCH])
                x = torch.cat([x[turns == k].rot90(k, (2, 3)) for k in range(TURNS)])
                target = one_hot(turns.sort().values, TURNS).to(x)
            loss = cross_entropy(classifier(x)[1], target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    what = "their classes" if known else "turns"
    name = f"classifier of {len(images)} images trained for this run ({NUM_FEATURES}-d, {what})"
    return FreshFeatures(ClassifierFeatures(classifier), shrink, name)


def shrunk(x: Float[Tensor, "n c h w"], by: int) -> Float[Tensor, "n c h w"]:
    """Return images averaged over squares of this many pixels."""
    return x if by == 1 else avg_pool2d(x, by, ceil_mode=True)
