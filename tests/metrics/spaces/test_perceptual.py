"""Distances of image pairs that have a gradient: LPIPS and its form in EfficientNet-Lite0."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from metrics.spaces.lite0 import Lite0
from metrics.spaces.perceptual import Lite0Distance, Lpips, choose_distance, in_colour, load_lpips

CONVOLUTIONS = {
    **{0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256)},
    **{14: (256, 256), 17: (512, 256), 19: (512, 512), 21: (512, 512), 24: (512, 512)},
    **{26: (512, 512), 28: (512, 512)},
}
# The last convolution before each of the five layers that are compared.
COMPARED = {2: 64, 7: 128, 14: 256, 21: 512, 28: 512}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of the public form with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("lpips")
    vgg = {}
    for number, (after, before) in CONVOLUTIONS.items():
        scale = (2 / (9 * before)) ** 0.5
        vgg[f"features.{number}.weight"] = scale * torch.randn(after, before, 3, 3)
        vgg[f"features.{number}.bias"] = 0.1 * torch.randn(after)
    linear = {
        f"lin{k}.model.1.weight": torch.rand(1, c, 1, 1) for k, c in enumerate(COMPARED.values())
    }
    torch.save(vgg, folder / "vgg16.pth")
    torch.save(linear, folder / "vgg.pth")
    return folder


def plain_lpips(x, y, files):
    """The paper's Eq. 1 in float64, layer by layer, in words of its own."""
    vgg, linear = (torch.load(files / name, weights_only=True) for name in ("vgg16.pth", "vgg.pth"))
    shift = torch.tensor([-0.030, -0.088, -0.188]).double()[None, :, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450]).double()[None, :, None, None]
    both = (torch.stack([x, y]).double() - shift) / scale
    total, n = 0, len(x)
    features = both.flatten(0, 1)
    for number in CONVOLUTIONS:
        weight, bias = (vgg[f"features.{number}.{part}"].double() for part in ("weight", "bias"))
        features = F.conv2d(features, weight, bias, padding=1).clamp_min(0)
        if number in COMPARED:
            k = list(COMPARED).index(number)
            unit = features / features.square().sum(dim=1, keepdim=True).sqrt()
            square = (unit[:n] - unit[n:]) ** 2
            total = total + (square * linear[f"lin{k}.model.1.weight"].double()).sum(1).mean((1, 2))
            features = F.max_pool2d(features, 2)
    return total


def test_lpips_is_the_papers_equation(files):
    x, y = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    lpips = load_lpips(files / "vgg16.pth", files / "vgg.pth", size=None)
    torch.testing.assert_close(lpips(x, y).double(), plain_lpips(x, y, files), rtol=1e-4, atol=1e-6)


def test_lpips_of_224_pixels_is_that_of_the_resampled_images(files):
    x, y = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    small, large = (
        load_lpips(files / "vgg16.pth", files / "vgg.pth", size=size) for size in (48, None)
    )
    resampled = (F.interpolate(images, [48, 48], mode="bilinear") for images in (x, y))
    torch.testing.assert_close(small(x, y), large(*resampled))


@pytest.fixture
def distances(files):
    lite0 = Lite0().eval().requires_grad_(False)
    return [load_lpips(files / "vgg16.pth", files / "vgg.pth", size=None), Lite0Distance(lite0)]


def test_an_image_has_no_distance_to_itself_and_order_does_not_matter(distances):
    x, y = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    for distance in distances:
        assert torch.equal(distance(x, x), torch.zeros(2))
        assert (distance(x, y) > 0).all()
        torch.testing.assert_close(distance(x, y), distance(y, x))


def test_gray_is_colour_with_three_equal_channels(distances):
    x, y = torch.rand(2, 2, 1, 32, 32) * 2 - 1
    for distance in distances:
        torch.testing.assert_close(distance(x, y), distance(x.repeat(1, 3, 1, 1), in_colour(y)))
    with pytest.raises(ValueError, match=r"give \[n, 1 or 3, h, w\]"):
        in_colour(torch.zeros(1, 4, 8, 8))


def test_a_step_down_the_gradient_brings_images_nearer(distances):
    x, y = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    for distance in distances:
        moved = x.clone().requires_grad_(True)
        before = distance(moved, y).sum()
        (slope,) = torch.autograd.grad(before, moved)
        assert slope.abs().max() > 0
        after = distance(moved - 1e-3 * slope / slope.square().mean().sqrt(), y).sum()
        assert after < before


def test_a_name_chooses_and_the_files_hashes_are_in_the_name(files):
    assert choose_distance("pseudo-huber") is None
    chosen = choose_distance(f"lpips={files / 'vgg16.pth'},{files / 'vgg.pth'}")
    assert isinstance(chosen, Lpips)
    assert chosen.name.startswith("LPIPS-VGG of ")


@pytest.mark.parametrize("text", ["lpips", "lpips=one.pth", "l2", ""])
def test_another_name_is_refused(text):
    with pytest.raises(ValueError, match="allowed are pseudo-huber, efficientnet-lite0, and lpips"):
        choose_distance(text)


def test_weights_of_something_else_are_refused_by_name(files):
    with pytest.raises(ValueError, match=r"'features\.0\.weight' is missing"):
        load_lpips(files / "vgg.pth", files / "vgg.pth")
    with pytest.raises(FileNotFoundError):
        load_lpips(files / "vgg.pth", files / "nothing.pth")
