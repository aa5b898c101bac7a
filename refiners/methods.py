"""The table of methods: name -> frozen dataclass. A new method is a row here and a file beside this one."""

from refiners.diff_instruct import DiffInstruct

REFINERS: dict[str, type] = {"diff-instruct": DiffInstruct}
