"""Pictures of a student's samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import image_sets
from refiners.training.inputs import draw_inputs
from roles import Student
from roles.pixels import to_uint8
from roles.streams import random_stream

GRID_COLUMNS = 16
GRID_ROWS = 8


@torch.no_grad()
def sample_grid(student: Student, seed: int) -> np.ndarray:
    """Return samples as uint8 [h, w] or [h, w, 3]; latents, labels, noise depend on the seed."""
    device = next(student.parameters()).device
    with random_stream(seed, device):
        z, labels = draw_inputs(student, GRID_COLUMNS * GRID_ROWS, device)
        images = [
            student(z[i : i + 16], None if labels is None else labels[i : i + 16])
            for i in range(0, len(z), 16)
        ]
    return tiled(torch.cat(images), GRID_COLUMNS)


def tiled(images: torch.Tensor, columns: int) -> np.ndarray:
    """Return images [n, c, h, w] in [-1, 1] as one picture, uint8 [H, W] or [H, W, 3]."""
    return image_sets.image_grid(to_uint8(images).cpu().numpy(), columns)


def save_grid(path: Path, student: Student, seed: int) -> np.ndarray:
    """Write a grid of the student's samples as PNG and return its pixels."""
    grid = sample_grid(student, seed)
    image_sets.save_png(path, grid)
    return grid


def save_tiled(path: Path, images: torch.Tensor, columns: int) -> None:
    """Write images [n, c, h, w] in [-1, 1] as one PNG."""
    image_sets.save_png(path, tiled(images, columns))
