"""What a number depends on beside the options: command, versions, machine, files."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any


def provenance(started: float) -> dict[str, Any]:
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


def sha256(path: str | Path) -> str:
    """Return the hash of a local file, or of a cached download."""
    import hashlib

    import checkpoints

    local = checkpoints.fetch(str(path)) if "://" in str(path) else path
    with open(local, "rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if sys.version_info >= (3, 11)
            else (hashlib.sha256(file.read()).hexdigest())
        )
