"""What a number depends on beside the options: command, versions, machine, files."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shlex
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

NAME = "stylegan-refiner"
ROOT = Path(__file__).resolve().parents[2]  # the checkout, or what it was installed into


@cache
def software() -> dict[str, str]:
    """Return the version of this project, and in a git checkout the commit, -dirty if changed."""
    declared = ROOT / "pyproject.toml"
    text = declared.read_text(encoding="utf-8") if declared.is_file() else ""
    found = re.search(rf'^name = "{NAME}"\nversion = "(.+)"$', text, flags=re.MULTILINE)
    if found is None:
        try:
            return {"version": importlib.metadata.version(NAME)}
        except importlib.metadata.PackageNotFoundError:  # files that somebody copied
            return {"version": "unknown"}
    commit = _commit() if (ROOT / ".git").exists() else ""
    return {"version": found[1], **({"commit": commit} if commit else {})}


def _commit() -> str:
    """Return the checkout's commit; "" where git is missing or does not trust the folder."""
    # No tag of any name: always the hash.
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        told = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout.strip() if told.returncode == 0 else ""


def provenance(started: float) -> dict[str, object]:
    """Return what a number depends on beside the options: command, versions, machine, time."""
    import numpy
    import torch

    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        **software(),
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
