"""The table of methods, name -> frozen dataclass: a new method is a row here and a file beside."""

from refiners.diff_instruct import DiffInstruct

REFINERS: dict[str, type] = {"diff-instruct": DiffInstruct}
