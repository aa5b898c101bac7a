"""Students: (z, labels) -> images.

`load` rebuilds a generator from a network file, its architecture always taken from the file; `save`
writes the file back with the student's weights in it, `save_for` writes a file that loads in the
checkout of the paper's program; `wrap` makes any module a student; `generate` makes images by seed.
FAMILIES is the table of what can be loaded: a new family is a row and a file.
"""

from roles import Student
from students.adapters.wrapped import wrap
from students.base import NOISE_MODES
from students.files import FAMILIES, family_of, load, save, save_for
from students.seeds import generate
from students.stylegan2.calls import writer_of
from students.w_average import estimate_w_avg

__all__ = [
    "FAMILIES",
    "NOISE_MODES",
    "Student",
    "estimate_w_avg",
    "family_of",
    "generate",
    "load",
    "save",
    "save_for",
    "wrap",
    "writer_of",
]
