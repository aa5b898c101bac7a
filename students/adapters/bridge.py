"""A student of any resolution and channels, as a teacher of another resolution can judge it.

The bridge is a linear map A behind the student: the teacher judges A G(z), and its pixel gradient g
reaches the student as A^T g. So what A loses, the teacher cannot correct; `sees` says what that is.
"area" averages over the area of each of the teacher's pixels (or, for a small student, interpolates
linearly); "crop" and "tiles" cut windows of the teacher's size out of the image as it is. "area"
makes an image that is not square a square: each side is scaled by a factor of its own.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int

from roles import Student, shape_of
from students.base import StudentModule

ADAPTS = ("area", "crop", "tiles")
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's mode L


class Bridge(StudentModule):
    """A student whose images have the teacher's size.

    Its weights are those of the inner student alone, under the prefix `inner.`.

    Args:
        inner: the student that is refined and saved; it is used, not copied.
        img_resolution: the teacher's.
        img_channels: the teacher's.
        has_classes: whether the teacher has the student's classes. Else the bridge is unconditional
            and draws the student's class itself, each as often.
        adapt: "area"; "crop", a window at a random place; "tiles", windows of a grid that covers
            the image, each as often in a batch.

    Attributes:
        inner: the student.
        sees: a line that says what the teacher can and cannot see.

    Raises:
        ValueError: an unknown adapt, windows larger than the image, channels without a conversion.
    """

    across: torch.Tensor
    down: torch.Tensor
    colours: torch.Tensor

    def __init__(
        self,
        inner: Student,
        *,
        img_resolution: int,
        img_channels: int,
        has_classes: bool = True,
        adapt: str = "area",
    ):
        if adapt not in ADAPTS:
            raise ValueError(f"adapt is {adapt!r}; allowed are {', '.join(ADAPTS)}")
        height, width = shape_of(inner)
        if adapt != "area" and min(height, width) < img_resolution:
            size = f"{width} pixels wide" if height == width else f"{height} x {width} pixels"
            raise ValueError(
                f"the student's images are {size}, too few for windows of the teacher's "
                f"{img_resolution}; use adapt area"
            )
        super().__init__()
        self.inner = inner
        self.z_dim = inner.z_dim
        self.c_dim = inner.c_dim if has_classes else 0
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.adapt = adapt
        colours = channel_matrix(inner.img_channels, img_channels)
        # No part of the state: it is that of the inner student, whatever the teacher.
        self.register_buffer("colours", colours, persistent=False)
        for name, size in (("down", height), ("across", width)):
            matrix = resampling_matrix(size, img_resolution)
            self.register_buffer(name, matrix, persistent=False)

    def sample_latents(
        self, n: int, *, generator: torch.Generator | None = None
    ) -> Float[torch.Tensor, "n z_dim"]:
        """Draw n latents [n, z_dim] as the inner student does."""
        return self.inner.sample_latents(n, generator=generator)

    def forward(
        self,
        z: Float[torch.Tensor, "n z_dim"],
        c: Float[torch.Tensor, "n c_dim"] | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return the images as the teacher sees them, [n, img_channels, r, r].

        The arguments and errors are those of the inner student. Windows and classes that the bridge
        draws come from torch's own stream.
        """
        if self.inner.c_dim and not self.c_dim and c is None:
            drawn = torch.randint(self.inner.c_dim, [len(z)])
            c = torch.nn.functional.one_hot(drawn, self.inner.c_dim).to(z)
        x = self.inner(
            z,
            c,
            truncation_psi=truncation_psi,
            truncation_cutoff=truncation_cutoff,
            noise_mode=noise_mode,
        )
        return self.view(x)

    def view(self, x: Float[torch.Tensor, "n c h w"]) -> Float[torch.Tensor, "n c_seen r r"]:
        """Map images of the inner student [n, c, h, w] to what the teacher sees of them."""
        if self.inner.img_channels != self.img_channels:
            x = torch.einsum("oc,nchw->nohw", self.colours.to(x.dtype), x)
        if shape_of(self.inner) == self.img_shape:
            return x
        if self.adapt == "area":
            return self.down.to(x.dtype) @ x @ self.across.to(x.dtype).T
        return windows(x, self._corners(len(x), x.device), self.img_resolution)

    def _corners(self, n: int, device: torch.device) -> torch.Tensor:
        """Draw the upper left corners of n windows, [n, 2]."""
        sides = shape_of(self.inner)
        free = [side - self.img_resolution for side in sides]
        if self.adapt == "crop" and free[0] == free[1]:
            return torch.randint(free[0] + 1, [n, 2]).to(device)
        if self.adapt == "crop":
            return torch.stack([torch.randint(room + 1, [n]) for room in free], 1).to(device)
        # The last window of a row ends at the border, and overlaps where sizes do not divide.
        counts = [math.ceil(side / self.img_resolution) for side in sides]
        starts = [
            torch.linspace(0, room, count).round().long()
            for room, count in zip(free, counts, strict=True)
        ]
        grid = torch.cartesian_prod(*starts)
        first = int(torch.randint(len(grid), []))
        return grid[(first + torch.randperm(n)) % len(grid)].to(device)

    @property
    def sees(self) -> str:
        """What the teacher can and cannot see of the student's images, in one line."""
        r, teacher_r = self.inner.img_resolution, self.img_resolution
        height, width = shape_of(self.inner)
        said = [f"the teacher sees the student's {height} x {width} images {self._size_seen()}"]
        if self.adapt == "area" and height != width:
            said.append(
                f"their height is scaled by {teacher_r / height:.3g} and their width by "
                f"{teacher_r / width:.3g}, and the teacher must know images so stretched"
            )
        if self.adapt == "area" and r > teacher_r:
            said.append(f"detail finer than {r / teacher_r:g} pixels is not seen or corrected")
        if self.adapt != "area" and r > teacher_r:
            said.append(
                f"what spans more than {teacher_r} pixels is not seen, and the teacher must know "
                f"parts of images, not whole ones"
            )
        if self.inner.img_channels > self.img_channels:
            said.append("colour is not seen or corrected")
        if self.inner.img_channels < self.img_channels:
            said.append("gray is shown as colour images without colour")
        if self.inner.c_dim and not self.c_dim:
            said.append(f"which of the {self.inner.c_dim} classes an image is of is not seen")
        return "; ".join(said)

    def _size_seen(self) -> str:
        r, teacher_r = self.inner.img_resolution, self.img_resolution
        if shape_of(self.inner) == self.img_shape:
            return "whole, pixel by pixel"
        if self.adapt == "area":
            how = "averaged over areas" if r >= teacher_r else "interpolated linearly"
            return f"whole, as {teacher_r} x {teacher_r}, {how}"
        place = "at random places" if self.adapt == "crop" else "on a grid"
        return f"through {teacher_r} x {teacher_r} windows {place}, pixel by pixel"


def resampling_matrix(size: int, new_size: int) -> Float[torch.Tensor, "new_size size"]:
    """Return W [new_size, size], whose rows sum to 1: W x resamples a row x of pixels.

    Down: the mean over the area of each new pixel, which keeps the mean of the row. Up: linear
    interpolation between the centres of pixels, constant beyond the outermost.
    """
    scale = size / new_size
    i = torch.arange(new_size, dtype=torch.float64)[:, None]
    j = torch.arange(size, dtype=torch.float64)[None]
    if new_size <= size:
        overlap = torch.minimum((i + 1) * scale, j + 1) - torch.maximum(i * scale, j)
        weights = overlap.clamp_min(0)
    else:
        centre = ((i + 0.5) * scale - 0.5).clamp(0, size - 1)
        weights = (1 - (centre - j).abs()).clamp_min(0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def channel_matrix(channels: int, new_channels: int) -> Float[torch.Tensor, "c_new c"]:
    """Return M [new_channels, channels]: gray to equal red, green and blue, colour to its luma.

    Raises:
        ValueError: no conversion between these numbers of channels.
    """
    if channels == new_channels:
        return torch.eye(channels)
    if (channels, new_channels) == (1, 3):
        return torch.ones(3, 1)
    if (channels, new_channels) == (3, 1):
        return torch.tensor([LUMA])
    if new_channels == 4:
        raise ValueError(
            f"the teacher has 4 channels, as the latents of an autoencoder, and the student's "
            f"images have {channels}; choose a teacher that works on pixels"
        )
    raise ValueError(
        f"the student has {channels} channels, the teacher {new_channels}; "
        "only gray (1) and colour (3) are converted"
    )


def windows(
    x: Float[torch.Tensor, "n c h w"], corners: Int[torch.Tensor, "n 2"], size: int
) -> Float[torch.Tensor, "n c size size"]:
    """Cut one size x size window out of each image [n, c, h, w], at its corner (row, column)."""
    steps = torch.arange(size, device=x.device)
    rows, columns = corners[:, :1] + steps, corners[:, 1:] + steps
    n = torch.arange(len(x), device=x.device)[:, None, None]
    # Indexing puts the channels last.
    return x[n, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
