"""Networks have the tensors of the originals' files: names, shapes, types and order.

The table holds, for published files and for small ones that the originals wrote, the class and the
call, how many tensors and how many numbers in parameters there are, and the SHA-256 of their list.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from students.stylegan2.discriminator import Discriminator
from students.stylegan2.generator import Generator as Generator2
from students.stylegan3.generator import Generator as Generator3
from teachers import edm
from teachers.edm2 import Precond

TABLE = json.loads((Path(__file__).parent / "published_layouts.json").read_text())


def class_of(name: str) -> Any:
    """Ours of a file's class: three programs have a Generator."""
    kind = TABLE[name]["class"]
    if kind == "Generator":
        return Generator3 if "3" in name[:10] else Generator2
    return {"Precond": Precond, "Discriminator": Discriminator}.get(kind) or getattr(edm, kind)


@pytest.mark.parametrize("name", TABLE)
def test_a_published_configuration_has_the_tensors_of_its_file(name: str) -> None:
    file = TABLE[name]
    with torch.device("meta"):
        network = class_of(name)(**file["call"])
    assert network.init_kwargs.items() >= file["call"].items()
    tensors = [*network.named_parameters(), *network.named_buffers()]
    rows = [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in tensors]
    assert len(rows) == file["tensors"]
    assert sum(math.prod(tensor.shape) for tensor in network.parameters()) == file["numbers"]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == file["layout"]
