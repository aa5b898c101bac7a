"""What the first day on a GPU takes along, in one folder that git ignores: wheels and a data set.

    python -m benchmarks.gpu_kit FOLDER [--data cifar10.tar.xz]     where there is a network

There, `wheels_of` unpacks those that the machine's own Python lacks, so that nothing is installed.
Only Python's own modules are imported here: what a machine lacks may be any other.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

MOST_MB = 40
# Name on the index -> what is imported. torch, numpy and scipy are too large to carry.
CARRIED = {
    "beartype": "beartype",
    "certifi": "certifi",
    "charset-normalizer": "charset_normalizer",
    "click": "click",
    "hypothesis": "hypothesis",
    "idna": "idna",
    "iniconfig": "iniconfig",
    "jaxtyping": "jaxtyping",
    "Jinja2": "jinja2",
    "MarkupSafe": "markupsafe",
    "packaging": "packaging",
    "pillow": "PIL",
    "pluggy": "pluggy",
    "Pygments": "pygments",
    "pyspng": "pyspng",
    "pytest": "pytest",
    "requests": "requests",
    "safetensors": "safetensors",
    "sortedcontainers": "sortedcontainers",
    "tqdm": "tqdm",
    "typing_extensions": "typing_extensions",
    "urllib3": "urllib3",
    "wadler_lindig": "wadler_lindig",
}
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
ROOT = Path(__file__).resolve().parent.parent


def locked() -> list[str]:
    """Return the lock's requirements of what is carried, for Python 3.11 and newer."""
    names = {name.lower() for name in CARRIED}
    found: dict[str, str] = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        requirement, _, marker = line.partition(";")
        name = requirement.partition("==")[0].strip()
        # The newest of two is that of newer Pythons, which stands second.
        if name.lower() in names and '< "3.11"' not in marker:
            found[name.lower()] = requirement.strip()
    return list(found.values())


def fill(folder: Path, data: Path | None, *, python: str) -> int:
    """Download the wheels and copy the data; return the bytes of all.

    Raises:
        ValueError: more than is allowed.
    """
    wheels = folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    target = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    subprocess.run([*pip, *target, *platforms, "-d", str(wheels), *locked()], check=True)
    if data is not None:
        (folder / "data").mkdir(exist_ok=True)
        shutil.copyfile(data, folder / "data" / data.name)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > MOST_MB * 10**6:
        raise ValueError(f"{folder} holds {size / 1e6:.0f} MB; at most {MOST_MB} travel")
    return size


def wheels_of(folder: Path, unpacked: Path) -> list[str]:
    """Unpack what this Python lacks and let it be imported; return the names.

    Args:
        folder: the kit; without wheels nothing is done.
        unpacked: where to.
    """
    taken = []
    for wheel in sorted((folder / "wheels").glob("*.whl")):
        name = wheel.name.partition("-")[0].lower().replace("_", "-")
        known = {key.lower().replace("_", "-"): module for key, module in CARRIED.items()}
        if name in known and importlib.util.find_spec(known[name]) is None:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(unpacked)
            taken.append(known[name])
    if taken:
        sys.path.insert(0, str(unpacked))
        importlib.invalidate_caches()
    return taken


def main() -> None:
    """Fill a folder."""
    parser = argparse.ArgumentParser(description="Fill the folder that a GPU machine is given.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, help="images of 32 x 32 pixels in class folders")
    parser.add_argument("--python", default="3.12", help="the machine's version of Python")
    given = parser.parse_args()
    size = fill(given.folder, given.data, python=given.python)
    print(f"{given.folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
