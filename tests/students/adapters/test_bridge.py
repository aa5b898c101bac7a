"""The bridge is a linear map behind the student, and the student is what is refined and saved."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch

import students
from refiners import Refinement, Settings
from refiners.diff_instruct import DiffInstruct
from roles import Student as StudentProtocol
from students.adapters.bridge import Bridge, channel_matrix, resampling_matrix, windows

SIZES = [(8, 8), (8, 4), (12, 8), (7, 5), (4, 8), (5, 7)]


class Images(torch.nn.Module):
    """Images that are their latents, shifted; classes, if there are any, add their number."""

    def __init__(self, resolution: int, channels: int):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros([channels, resolution, resolution]))
        self.register_buffer("calls", torch.zeros([]))
        self.seen: torch.Tensor | None = None

    def forward(self, z: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        x = z.reshape(-1, *self.shift.shape) + self.shift
        self.seen = c
        return x if c is None else x + c.argmax(dim=1).to(x)[:, None, None, None]


def student(resolution: int, channels: int = 1, *, c_dim: int = 0) -> Any:
    sizes: Any = {"img_resolution": resolution, "img_channels": channels}
    return students.wrap(
        Images(resolution, channels), z_dim=channels * resolution**2, c_dim=c_dim, **sizes
    )


def bridge(resolution: int, to: int, *, channels: tuple[int, int] = (1, 1), **options: Any) -> Any:
    c_dim = options.pop("c_dim", 0)
    inner = student(resolution, channels[0], c_dim=c_dim)
    return Bridge(inner, img_resolution=to, img_channels=channels[1], **options)


def cases() -> list[Any]:
    area = [("area", *size, c) for size in SIZES for c in ((1, 1), (3, 3), (1, 3), (3, 1))]
    cut = [(adapt, *s, (3, 1)) for adapt in ("crop", "tiles") for s in ((8, 8), (8, 4), (7, 5))]
    return [*area, *cut]


@pytest.mark.parametrize(("adapt", "resolution", "to", "channels"), cases())
def test_what_reaches_the_student_is_the_adjoint_of_what_the_teacher_sees(
    adapt, resolution, to, channels
):
    """<A x, y> = <x, A^T y> for random x and y, where A^T y is what backward returns."""
    bridged = bridge(resolution, to, channels=channels, adapt=adapt)
    x = torch.randn(6, channels[0], resolution, resolution, dtype=torch.float64)
    x.requires_grad_(True)
    seen = bridged.view(x)
    y = torch.randn_like(seen)
    (back,) = torch.autograd.grad(seen, x, y)
    torch.testing.assert_close((seen * y).sum(), (x * back).sum(), rtol=1e-6, atol=1e-6)
    assert list(seen.shape) == [6, channels[1], to, to]
    # Where crops fall is drawn anew, but then the map is linear: it has no part without x.
    assert float(bridged.view(torch.zeros_like(x)).detach().abs().max()) == 0


@pytest.mark.parametrize("size", SIZES)
def test_resampling_keeps_a_constant_image_and_down_keeps_the_mean(size):
    across = resampling_matrix(*size).double()
    rows = across.sum(dim=1)
    torch.testing.assert_close(rows, torch.ones_like(rows), rtol=1e-6, atol=0)
    if size[1] <= size[0]:
        columns = across.sum(dim=0)
        expected = torch.full_like(columns, size[1] / size[0])
        torch.testing.assert_close(columns, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", SIZES)
def test_resampling_is_torchs_area_and_linear_interpolation(size):
    resolution, to = size
    x = torch.randn(2, 3, resolution, resolution)
    if to > resolution:
        options: Any = {"mode": "bilinear", "align_corners": False}
    else:
        options = {"mode": "area"}
        # Torch takes whole pixels where an area's border cuts one: it agrees where none is cut.
        x = x if resolution % to == 0 else torch.ones_like(x)
    expected = torch.nn.functional.interpolate(x, size=to, **options)
    torch.testing.assert_close(bridge(*size, channels=(3, 3)).view(x), expected)


def test_detail_finer_than_the_teachers_pixels_does_not_alias():
    checks = torch.ones(1, 1, 8, 8)
    checks[:, :, ::2, 1::2] = checks[:, :, 1::2, ::2] = -1
    assert float(bridge(8, 4).view(checks).abs().max()) == 0
    # Picking every second pixel would have turned them into a white image.
    assert float(checks[:, :, ::2, ::2].mean()) == 1


def test_gray_and_colour_are_converted_as_photographs_are():
    gray = torch.rand(2, 1, 4, 4)
    colour = bridge(4, 4, channels=(1, 3)).view(gray)
    torch.testing.assert_close(colour, gray.expand(2, 3, 4, 4))
    torch.testing.assert_close(bridge(4, 4, channels=(3, 1)).view(colour), gray)
    luma = bridge(4, 4, channels=(3, 1)).view(torch.eye(3).reshape(3, 3, 1, 1).expand(3, 3, 4, 4))
    torch.testing.assert_close(luma[:, 0, 0, 0], torch.tensor([0.299, 0.587, 0.114]))


def places(bridged: Any, n: int) -> torch.Tensor:
    """Corners (row, column) of the windows, read from an image of coordinates."""
    r = bridged.inner.img_resolution
    grid = torch.cartesian_prod(torch.arange(r), torch.arange(r)).T.reshape(1, 2, r, r).float()
    return windows(grid.expand(n, 2, r, r), bridged._corners(n, grid.device), 3)[:, :, 0, 0]


def test_windows_are_parts_of_the_image_as_it_is():
    x = torch.randn(2, 3, 8, 8)
    seen = windows(x, torch.tensor([[0, 5], [4, 2]]), 3)
    torch.testing.assert_close(seen[0], x[0, :, 0:3, 5:8])
    torch.testing.assert_close(seen[1], x[1, :, 4:7, 2:5])


def test_crops_fall_on_every_place_as_often():
    corners = places(bridge(5, 3, adapt="crop"), 9000)
    counts = torch.bincount((corners[:, 0] * 3 + corners[:, 1]).long(), minlength=9)
    # Five standard errors of a count of 1000.
    assert len(counts) == 9 and bool(((counts - 1000).abs() < 5 * math.sqrt(1000 * 8 / 9)).all())


def test_tiles_cover_the_image_and_a_batch_holds_each_as_often():
    bridged = bridge(7, 3, adapt="tiles")
    corners = places(bridged, 18)
    tiles, counts = corners.unique(dim=0, return_counts=True)
    assert tiles.tolist() == [[a, b] for a in (0, 2, 4) for b in (0, 2, 4)]
    assert counts.tolist() == [2] * 9
    # Which image has which tile is chance.
    assert not torch.equal(places(bridged, 18), corners)


def test_windows_of_the_students_own_size_are_the_image():
    x = torch.randn(3, 1, 4, 4)
    for adapt in ("area", "crop", "tiles"):
        torch.testing.assert_close(bridge(4, 4, adapt=adapt).view(x), x, rtol=0, atol=0)


def test_classes_go_to_the_student_and_are_drawn_where_the_teacher_has_none():
    known = bridge(4, 2, c_dim=3)
    assert known.c_dim == 3
    labels = torch.eye(3)[[2, 0]]
    torch.testing.assert_close(
        known(torch.zeros(2, 16), labels)[:, 0, 0, 0], torch.tensor([2.0, 0])
    )
    with pytest.raises(ValueError, match="has 3 classes"):
        known(torch.zeros(2, 16))
    unknown = bridge(4, 2, c_dim=3, has_classes=False)
    assert unknown.c_dim == 0
    drawn = unknown(torch.zeros(3000, 16))[:, 0, 0, 0]
    counts = torch.bincount(drawn.long(), minlength=3)
    assert bool(((counts - 1000).abs() < 5 * math.sqrt(1000 * 2 / 3)).all())


class Towards(torch.nn.Module):
    """The exact denoiser of N(0.5, 0.2^2 I), with a weight that an auxiliary can train."""

    sigma_min, sigma_max, label_dim = 0.0, math.inf, 0

    def __init__(self, resolution: int, channels: int):
        super().__init__()
        self.img_resolution, self.img_channels = resolution, channels
        self.mean = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, sigma, labels=None):
        noise = torch.as_tensor(sigma).reshape(-1, 1, 1, 1).square()
        return (0.04 * x + noise * self.mean) / (0.04 + noise)


@pytest.mark.parametrize(
    ("options", "to"),
    [({}, 4), ({"adapt": "crop"}, 4), ({"adapt": "tiles"}, 4), ({"channels": (3, 1)}, 4), ({}, 12)],
)
def test_the_loop_refines_the_inner_student_through_the_bridge(options, to):
    bridged = bridge(8, to, **{"channels": (1, 1), **options})
    before = copy.deepcopy(bridged.inner.state_dict())
    settings = Settings(kimg=1, batch=4, glr=0.05, warmup_kimg=0, ema=0.01, rampup_kimg=0)
    teacher = Towards(to, bridged.img_channels)
    run: Any = Refinement(bridged, teacher, DiffInstruct(), settings)
    assert isinstance(run.student, StudentProtocol)
    for _ in range(6):
        run.advance()
    refined = run.average.inner
    assert type(refined) is type(bridged.inner)
    # The average has moved towards the teacher's mean, but for pixels that no crop has shown yet,
    # and the original has not.
    shift = refined.module.shift
    assert float(shift.mean()) > 0.05
    assert bool((shift >= 0 if options.get("adapt") == "crop" else shift > 0).all())
    after = bridged.inner.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    # A state holds the inner student's tensors alone, and is read into a bridge to it.
    names = [f"inner.{name}" for name in before]
    assert list(run.state_dict()["average"]) == names
    again: Any = Refinement(bridge(8, to, **options), teacher, DiffInstruct(), settings)
    again.load_state_dict(copy.deepcopy(run.state_dict()))
    torch.testing.assert_close(again.average.inner.module.shift, refined.module.shift)
    run.advance()
    again.advance()
    torch.testing.assert_close(
        again.average.inner.module.shift, run.average.inner.module.shift, rtol=0, atol=0
    )


def test_a_refined_student_is_saved_as_it_was_without_the_bridge(make_generator, write, tmp_path):
    inner = make_generator()
    path = write(G_ema=inner)
    bridged = copy.deepcopy(
        Bridge(students.load(path), img_resolution=4, img_channels=2, adapt="area")
    )
    with torch.no_grad():
        for parameter in bridged.parameters():
            parameter.mul_(0.9)
    students.save(bridged.inner, tmp_path / "refined.pkl", like=path)
    z = torch.randn(2, 5)
    expected = bridged.inner(z, noise_mode="const")
    got = students.load(tmp_path / "refined.pkl")(z, noise_mode="const")
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(bridged(z, noise_mode="const"), bridged.view(expected))


@pytest.mark.parametrize(
    ("bridged", "sees"),
    [
        (
            bridge(256, 64, channels=(3, 3)),
            "the teacher sees the student's 256 x 256 images whole, as 64 x 64, averaged over areas"
            "; detail finer than 4 pixels is not seen or corrected",
        ),
        (
            bridge(64, 32, channels=(3, 1), adapt="crop", c_dim=2, has_classes=False),
            "the teacher sees the student's 64 x 64 images through 32 x 32 windows at random "
            "places, pixel by pixel; what spans more than 32 pixels is not seen, and the teacher "
            "must know parts of images, not whole ones; colour is not seen or corrected; which of "
            "the 2 classes an image is of is not seen",
        ),
        (
            bridge(16, 32, channels=(1, 3)),
            "the teacher sees the student's 16 x 16 images whole, as 32 x 32, interpolated "
            "linearly; gray is shown as colour images without colour",
        ),
        (
            bridge(32, 32),
            "the teacher sees the student's 32 x 32 images whole, pixel by pixel",
        ),
    ],
)
def test_one_line_says_what_the_teacher_can_and_cannot_see(bridged, sees):
    assert bridged.sees == sees


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bridge(8, 4, adapt="nearest"), "adapt is 'nearest'; allowed are area, crop, tile"),
        (
            lambda: bridge(4, 8, adapt="tiles"),
            "4 pixels wide, too few for windows of the teacher's",
        ),
        (lambda: bridge(8, 4, channels=(3, 4)), "the teacher has 4 channels, as the latents of an"),
        (lambda: bridge(8, 4, channels=(2, 3)), "the student has 2 channels, the teacher 3; only"),
    ],
)
def test_bridges_that_cannot_be_are_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        make()
    assert "\n" not in str(error.value)


def test_equal_channels_are_left_as_they_are():
    assert torch.equal(channel_matrix(4, 4), torch.eye(4))
