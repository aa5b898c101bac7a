"""What a number depends on beside the options: command, versions, machine, files."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from pathlib import Path


def provenance(started: float) -> dict[str, object]:
    """Return what a number depends on beside the options: command, versions, machine, time."""
    import numpy
    import torch

    return {
        "command": shlex.join(["refine.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "seconds": round(time.time() - started, 1),
    }


def sha256(source: str | Path) -> str:
    """The SHA-256 of a file given by its path, its address, or the name of a published network.

    Of a folder, that of its list of files: lines of hash, two spaces and name, as sha256sum's.
    """
    import hashlib

    import checkpoints

    path = checkpoints.local(source)
    if not path.is_dir():
        return checkpoints.sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{checkpoints.sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
