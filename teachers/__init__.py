"""Teachers: (x, sigma, labels) -> D(x; sigma).

`load` rebuilds a denoiser from a network file, `save` writes one that was trained here, `sample`
makes images with it, and `Denoiser` says what every teacher is. FAMILIES is the table of what can
be loaded: a new family is a row and a file.
"""

from __future__ import annotations

from teachers.denoiser import Denoiser
from teachers.files import FAMILIES, load, save
from teachers.sampler import sample

__all__ = ["FAMILIES", "Denoiser", "load", "sample", "save"]
