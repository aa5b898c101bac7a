"""Refiners: one published method, one file; what a step is in training/, what a run is in runs/.

A method gives the pixel gradient g = dL/dx_0 and a loss for its auxiliary network. base states the
protocols, sigma_laws the laws of sigma, knob what a method says of itself, methods
the tables. `refine` makes a GAN better by a
teacher, `distil` makes a one-step generator of one; both are whole runs. Refinement and
Distillation are their steps in memory.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from refiners.methods import DISTILLERS, REFINERS
    from refiners.runs.distil import distil
    from refiners.runs.folder import RunFolder, read_state
    from refiners.runs.refine import refine
    from refiners.runs.schedule import run
    from refiners.runs.session import Session
    from refiners.training.distillation import Distillation
    from refiners.training.fit import check_pair
    from refiners.training.inputs import ImageSet, Inputs, PairSet
    from refiners.training.refinement import Refinement
    from refiners.training.settings import Settings

# Imported when they are asked for: the command line reads the table of options without torch.
_HOMES = {
    "DISTILLERS": "refiners.methods",
    "Distillation": "refiners.training.distillation",
    "ImageSet": "refiners.training.inputs",
    "Inputs": "refiners.training.inputs",
    "PairSet": "refiners.training.inputs",
    "REFINERS": "refiners.methods",
    "Refinement": "refiners.training.refinement",
    "RunFolder": "refiners.runs.folder",
    "Session": "refiners.runs.session",
    "Settings": "refiners.training.settings",
    "check_pair": "refiners.training.fit",
    "distil": "refiners.runs.distil",
    "read_state": "refiners.runs.folder",
    "refine": "refiners.runs.refine",
    "run": "refiners.runs.schedule",
}

__all__ = [
    "DISTILLERS",
    "REFINERS",
    "Distillation",
    "ImageSet",
    "Inputs",
    "PairSet",
    "Refinement",
    "RunFolder",
    "Session",
    "Settings",
    "check_pair",
    "distil",
    "read_state",
    "refine",
    "run",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'refiners' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
