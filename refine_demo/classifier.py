"""The stage that trains the classifier whose features are the demo's feature space.

Colour needs more than digits do: each layer is normalised over the batch while it trains (Ioffe and
Szegedy 2015, arXiv:1502.03167), which folds into its weights afterwards, so that the file holds the
same three convolutions; images are flipped and shifted; the labels are softened (Szegedy et al.
2016, arXiv:1512.00567, sec. 7).
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import image_sets
from metrics import Moments, Statistics
from metrics.spaces.features import Classifier, ClassifierFeatures, save_features
from refine_demo.augment import shifted
from refine_demo.sizes import SIZES
from refine_demo.stages import NUM_CLASSES, Progress, batches, load_images, stage

PARAMETRIC = (0, 2, 4, 7)  # the layers of Classifier.c that are normalised: all but the logits
MAX_SHIFT = 4  # pixels
SMOOTHING = 0.1
DROPOUT = 0.2


class Normalised(nn.Module):
    """A classifier in training: its layers with normalisation after each, then as `folded`."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier = classifier
        widths = [layer.weight.shape[0] for layer in self._layers()]
        norms = [*map(nn.BatchNorm2d, widths[:3]), nn.BatchNorm1d(widths[3])]
        self.norms = nn.ModuleDict(dict(zip(map(str, PARAMETRIC), norms, strict=True)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features [n, d] and class logits [n, k] of float x [n, c, h, w] in [-1, 1]."""
        *layers, head = self.classifier.c
        for i, layer in enumerate(layers):
            x = layer(x)
            x = self.norms[str(i)](x) if str(i) in self.norms else x
        return x, head(F.dropout(x, DROPOUT, self.training))

    def _layers(self) -> list[nn.Conv2d | nn.Linear]:
        layers = [self.classifier.c[i] for i in PARAMETRIC]
        return [layer for layer in layers if isinstance(layer, nn.Conv2d | nn.Linear)]

    @torch.no_grad()
    def folded(self) -> Classifier:
        """Return the classifier with the normalisations in its weights: equal in eval mode."""
        for layer, norm in zip(self._layers(), self.norms.values(), strict=True):
            assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) and layer.bias is not None
            assert norm.running_var is not None and norm.running_mean is not None
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))
            layer.bias.copy_((layer.bias - norm.running_mean) * scale + norm.bias)
        return self.classifier


@click.command()
@stage
@click.option("--epochs", type=int, default=4, show_default=True)
def classifier(
    data: Path, workdir: Path, seed: int, threads: int, size: str, device: str, epochs: int
) -> None:
    """Train the classifier whose features are the feature space."""
    torch.set_num_threads(threads)
    workdir.mkdir(parents=True, exist_ok=True)
    images, labels = load_images(data, workdir)
    torch.manual_seed(seed)
    sizes = SIZES[size]
    network = Classifier(
        img_resolution=32,
        img_channels=sizes.img_channels,
        widths=sizes.classifier,
        num_features=sizes.num_features,
        num_classes=NUM_CLASSES,
    ).to(device)
    training = Normalised(network).to(device) if sizes.recipe.flips else network
    _fit(training, images, labels, epochs=epochs, seed=seed, device=device)
    network = training.folded() if isinstance(training, Normalised) else network
    features = ClassifierFeatures(network.cpu())
    held_images, held_labels = image_sets.read_class_folders(data, split="test", pad_to=32)
    right = _accuracy(features, torch.from_numpy(held_images), torch.from_numpy(held_labels))
    moments = Moments.empty(features.dim)
    for part in images.split(1000):
        moments = moments.merge(Moments.of(features(part)[0]))
    # A sample of the features themselves, for precision and recall.
    sample = features(images[:: max(len(images) // 2000, 1)][:2000])[0]
    name = f"{sizes.data} classifier, {features.dim}-d penultimate"
    statistics = Statistics.of(moments, space=name, features=sample)
    save_features(workdir / "features.npz", network, statistics, name=name)
    print(f"test accuracy {100 * right:.2f} %")


def _fit(
    network: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, seed: int, device: str
) -> None:
    """Minimise the cross entropy; a `Normalised` network sees flipped and shifted images."""
    normalised = isinstance(network, Normalised)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    batch = 100
    steps = epochs * len(images) // batch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    stream = batches(images, labels, batch, seed=seed, start=0, device=device, flips=normalised)
    progress = Progress(0)
    for step in range(steps):
        x, c = next(stream)
        if normalised:
            # Channels last: the convolutions and normalisations are faster so.
            x = shifted(x, MAX_SHIFT).contiguous(memory_format=torch.channels_last)
        smoothing = SMOOTHING if normalised else 0.0
        loss = F.cross_entropy(network(x)[1], c, label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress((step + 1) * batch, loss.item())
    network.eval()


def _accuracy(features: ClassifierFeatures, images: Tensor, labels: Tensor) -> float:
    """Share of the images whose most probable class is theirs."""
    probabilities = features(images)[1]
    assert probabilities is not None
    return (probabilities.argmax(1) == labels).float().mean().item()
