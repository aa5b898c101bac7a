"""Teachers: (x, sigma, labels) -> D(x; sigma).

`load` rebuilds a denoiser from a network file, `save` writes one that was trained here, `sample`
makes images with it, `generate` makes them by seed, and `make_pairs` keeps them with their latents
on disk, whence `PairFolder` draws. `classifier_free` and `autoguidance` make a stronger teacher of
one or two, `Relabelled` one with other class numbers, and `KernelDensity` is a teacher of a set of
images that needs no training. `faults` checks that a teacher denoises, `told` says it.
`Denoiser` says what every teacher is. FAMILIES is the table of what can be loaded: a new family is
a row and a file.
"""

from __future__ import annotations

from roles import Denoiser
from teachers.converted import ConvertedDenoiser
from teachers.files import FAMILIES, load, program_of, save
from teachers.gaussian import KernelDensity
from teachers.guidance import autoguidance, classifier_free
from teachers.pairs import PairFolder, make_pairs
from teachers.relabelled import Relabelled
from teachers.sampler import generate, sample
from teachers.self_check import faults, told

__all__ = [
    "FAMILIES",
    "ConvertedDenoiser",
    "Denoiser",
    "KernelDensity",
    "PairFolder",
    "Relabelled",
    "autoguidance",
    "classifier_free",
    "faults",
    "generate",
    "load",
    "make_pairs",
    "program_of",
    "sample",
    "save",
    "told",
]
