"""Refiners: one published method, one file; the loop that runs any of them.

A method gives the pixel gradient g = dL/dx_0 and a loss for its auxiliary network. base states the
protocols, noise the laws of sigma, inputs what a step draws, methods the table, loop the step,
schedule the run, session what is seen of it in its folder (run_folder), refining a whole run.
distillation trains a denoiser for fewer steps instead (progressive, guided), by the same machinery.
"""

from refiners.methods import REFINERS
from refiners.runs.folder import RunFolder, read_state
from refiners.runs.refining import refine
from refiners.runs.schedule import run
from refiners.training.distillation import DISTILLERS, Distillation, distil
from refiners.training.fit import check_pair
from refiners.training.inputs import ImageSet, Inputs, PairSet
from refiners.training.refinement import Refinement
from refiners.training.settings import Settings

__all__ = [
    "DISTILLERS",
    "REFINERS",
    "Distillation",
    "ImageSet",
    "Inputs",
    "PairSet",
    "Refinement",
    "RunFolder",
    "Settings",
    "check_pair",
    "distil",
    "read_state",
    "refine",
    "run",
]
