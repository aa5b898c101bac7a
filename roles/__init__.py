"""What takes part in a run, as every room sees it: student, denoiser, discriminator, processes.

The protocols say what is asked of a network; whatever has these shapes can be refined, can teach,
or can be measured. Nothing here knows a package of ours.
"""

from roles.denoiser import Denoiser, Sigma, WithFeatures
from roles.discriminator import Discriminator
from roles.network import Network
from roles.processes import Processes
from roles.student import Student, shape_of

__all__ = [
    "Denoiser",
    "Discriminator",
    "Network",
    "Processes",
    "Sigma",
    "Student",
    "WithFeatures",
    "shape_of",
]
