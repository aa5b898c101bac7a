"""Every door that takes a file of somebody else's, with small files that were changed at random.

    python -m benchmarks.doors [--count 300] [--seed 0] [--corpus tests/benchmarks/corpus]

The project makes its own small files: a generator (pickle and rosinality's .pt), a denoiser,
features with statistics, statistics of EDM2, a zip of images with labels, and a training state.
Each is changed --count times (whole bytes and opcodes; in archives, inside of a member that is
packed again) and goes through its door. A door opens, or raises a ValueError, an OSError or a
MemoryError with a text, within ten seconds and 3 GB of addresses; nothing is run. What breaks this
goes to the corpus, of which the tests read every file again, and the script ends with 1.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import random
import resource
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import checkpoints
import image_sets
import metrics
import students
import teachers
from benchmarks.fuzz import GUARD, change, in_time, mutated
from metrics import Classifier, Moments, Statistics
from refiners.runs.folder import read_state
from students import originals
from students.foreign import rosinality
from students.stylegan2.generator import Generator
from students.styles import read_ws
from teachers.edm import EDMPrecond

CORPUS = Path(__file__).parent.parent / "tests" / "benchmarks" / "corpus"
MAX_MEMORY = 3 * 2**30  # addresses of the whole process, of which Python and torch take a half
ALLOWED = (ValueError, OSError, MemoryError)


class Door(NamedTuple):
    """What takes a file, and a small file that it takes."""

    name: str
    suffix: str
    opens: Callable[[Path], object]
    raw: bytes


def doors(folder: Path) -> list[Door]:
    """The doors, each with its file, which is made in the folder."""
    torch.manual_seed(0)
    generator = _generator()
    checkpoints.write({"G_ema": originals.describe(generator), "D": None}, folder / "student.pkl")
    rosinality.save(generator, folder / "student.pt")
    teachers.save(_denoiser(), folder / "teacher.pkl")
    classifier, rows = Classifier(), torch.randn(100, 64)
    statistics = Statistics.of(Moments.of(rows), features=rows[:4])
    metrics.save_features(folder / "features.npz", classifier, statistics, name="digits")
    held = {"mu": statistics.mu[:3], "sigma": statistics.sigma[:3, :3]}
    checkpoints.write({"fid": held, "num_images": 100}, folder / "statistics.pkl")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    image_sets.write_zip(folder / "images.zip", pixels, np.array([0, 1, 1]))
    alone = folder / "alone.pt"
    state = {"format": 1, "networks": {"G": generator.state_dict()}, "step": 3, "name": "a"}
    torch.save(state, folder / "state.pt")
    torch.save({"netG": {f"module.{n}": v for n, v in generator.state_dict().items()}}, alone)
    ws = np.zeros([1, generator.num_ws, generator.w_dim], dtype=np.float32)
    np.savez(folder / "w.npz", w=ws)
    np.save(folder / "w.npy", ws)
    opens: Mapping[str, Callable[[Path], object]] = {
        alone.name: students.load,
        "w.npz": lambda path: read_ws(path, generator),
        "w.npy": lambda path: read_ws(path, generator),
        "student.pkl": students.load,
        "student.pt": students.load,
        "teacher.pkl": teachers.load,
        "features.npz": metrics.open_reference,
        "statistics.pkl": lambda path: metrics.open_reference(path, _inception),
        "images.zip": lambda path: [*image_sets.ImageFolder(path).batches(2)],
        "state.pt": read_state,
    }
    return [
        Door(name, Path(name).suffix, opening, (folder / name).read_bytes())
        for name, opening in opens.items()
    ]


def _generator() -> Generator:
    generator = Generator(
        z_dim=4,
        c_dim=0,
        w_dim=4,
        img_resolution=8,
        img_channels=3,
        mapping_kwargs={"num_layers": 1},
        synthesis_kwargs={"channel_max": 4},
    )
    return generator.eval().requires_grad_(False)


def _denoiser() -> EDMPrecond:
    return EDMPrecond(
        img_resolution=8,
        img_channels=1,
        model_type="SongUNet",
        model_channels=4,
        channel_mult=[1, 1],
        num_blocks=1,
        attn_resolutions=[],
    ).eval()


def _inception(images: torch.Tensor) -> torch.Tensor:
    raise AssertionError("no image is measured")


_inception.name = "Inception 2015 (tf1 resize)"  # type: ignore[attr-defined] -- a space's name


def changed(raw: bytes, rng: random.Random) -> bytes:
    """The bytes with random changes; of an archive mostly inside of one member, packed again."""
    if not raw.startswith(b"PK") or rng.random() < 0.3:
        return mutated(raw, raw, rng)
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    inner = bytearray(members[name])
    for _ in range(rng.choice((1, 1, 2, 5))):
        change(inner, members[name] or b"\x00", rng)
    members[name] = bytes(inner)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for member, data in members.items():
            archive.writestr(zipfile.ZipInfo(member), data)
    return packed.getvalue()


def fault(opens: Callable[[Path], object], path: Path) -> str:
    """How a door breaks the rule with this file, or ""."""
    try:
        with in_time(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opens(path)
    except TimeoutError as error:  # an OSError, and the one that is not allowed
        return f"TimeoutError: {error}"
    except ALLOWED as error:
        return "" if str(error) else f"{type(error).__name__} without a text"
    except Exception as error:  # whatever it is, it is what was looked for
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> int:
    """Try every door, and keep what fails; the exit code."""
    parser = argparse.ArgumentParser(description="Open changed files by every door.")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        every = doors(Path(name))
        for door in every:  # which also imports what is imported on first use
            assert not fault(door.opens, Path(name) / door.name), door.name
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        sys.addaudithook(GUARD)
        for door in every:
            rng, path = random.Random(f"{given.seed} {door.name}"), Path(name) / door.name
            for _ in range(given.count):
                raw = changed(door.raw, rng)
                path.write_bytes(raw)
                with GUARD.watching():
                    why = fault(door.opens, path)
                if why:
                    failures += 1
                    given.corpus.mkdir(parents=True, exist_ok=True)
                    digest = hashlib.sha256(raw).hexdigest()[:16]
                    (given.corpus / f"{digest}-{door.name}").write_bytes(raw)
                    print(f"{digest}-{door.name}: {why}", flush=True)
            print(f"{door.name}: {given.count} files", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
