"""Refiners: one published method, one file; the loop that runs any of them.

A method gives the pixel gradient g = dL/dx_0 and a loss for its auxiliary network. base states the
protocols, noise the laws of sigma,
methods the table, loop the steps, session a run with its folder, progress and snapshots.
"""

from refiners.loop import Refinement, run
from refiners.methods import REFINERS
from refiners.pair import check_pair
from refiners.run_folder import RunFolder, read_state
from refiners.session import refine
from refiners.settings import Settings

__all__ = [
    "REFINERS",
    "Refinement",
    "RunFolder",
    "Settings",
    "check_pair",
    "read_state",
    "refine",
    "run",
]
