"""Network files as plain data: no code in them is run, and the original tools load what is written.

`read` runs the pickle on a small machine (`machine`) over bounded windows of the file (`window`).
The names a file may use are one table (`reader.NAMES`); tensor storages (`storages`) and NumPy data
(`arrays`) are parsed here; `settle` takes the last look. Objects become `Record` nodes (`records`).
`torch_files` reads and writes whole files of `torch.save` (`zips`). `write` (`writer`) is the way
back. `modules` finds the tensors of a record, changes them, and makes records of modules born here;
`fitting` compares them with what a network asks for, and fills it. `json_files` reads what lies
beside them.
`fetch` (`cache`) keeps files from the web, `local` (`places`) finds what a user names, on the
Hugging Face Hub too (`hub`), and `replacing` (`atomic`) is how every file here is
written.
"""

from checkpoints.atomic import replacing
from checkpoints.fitting import (
    check_finite,
    check_fit,
    filled,
    is_state_dict,
    shape_of,
    with_options,
)
from checkpoints.json_files import Json, read_json
from checkpoints.modules import (
    Program,
    buffers,
    describe,
    named_modules,
    nonfinite,
    parameters,
    tensors,
    with_tensors,
)
from checkpoints.pickles.reader import read, read_with_names
from checkpoints.pickles.storages import value_bytes
from checkpoints.pickles.torch_files import write_torch_file
from checkpoints.pickles.writer import write
from checkpoints.records import EasyDict, Record, UnsafeCheckpoint, Value, check_clean
from checkpoints.safetensors import write_safetensors
from checkpoints.web.cache import fetch, sha256
from checkpoints.web.hub import is_hub_id
from checkpoints.web.places import local, local_data
from checkpoints.web.published import ADDRESSES

__all__ = [
    "ADDRESSES",
    "EasyDict",
    "Json",
    "Program",
    "Record",
    "UnsafeCheckpoint",
    "Value",
    "buffers",
    "check_clean",
    "check_finite",
    "check_fit",
    "describe",
    "fetch",
    "filled",
    "is_hub_id",
    "is_state_dict",
    "local",
    "local_data",
    "named_modules",
    "nonfinite",
    "parameters",
    "read",
    "read_json",
    "read_with_names",
    "replacing",
    "sha256",
    "shape_of",
    "tensors",
    "value_bytes",
    "with_options",
    "with_tensors",
    "write",
    "write_safetensors",
    "write_torch_file",
]
