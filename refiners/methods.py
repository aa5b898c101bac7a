"""The table of methods, name -> frozen dataclass: a new method is a row here and a file beside."""

from refiners.diff_instruct import DiffInstruct
from refiners.dmd import DMD
from refiners.dmd2 import DMD2
from refiners.f_distill import FDistill
from refiners.moments import DiffInstructMoments
from refiners.sds import SDS
from refiners.sid import SiD
from refiners.sim import SIM

REFINERS: dict[str, type] = {
    "diff-instruct": DiffInstruct,
    "diff-instruct-moments": DiffInstructMoments,
    "sds": SDS,
    "dmd": DMD,
    "dmd2": DMD2,
    "f-distill": FDistill,
    "sid": SiD,
    "sim": SIM,
}
