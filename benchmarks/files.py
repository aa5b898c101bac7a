"""Network files: how fast they are read, and whether the original programs read what we write.

    python -m benchmarks.files load [FILE ...] [--size files|cifar] [--official DIR] [--repeats 3]
    python -m benchmarks.files export NETWORK --official DIR [--network G_ema]

`load` takes time and peak memory of reading each FILE (the demo's, if none are named) as ratios to
reading its bytes, each in a fresh process, so that none finds memory that another has warmed. DIR
is a checkout of stylegan2-ada-pytorch, whose loader is then timed on the student.

`export`: NETWORK is a file that the original program wrote, DIR a checkout of that program:
stylegan2-ada-pytorch or stylegan3, stylegan-xl, R3GAN, or rosinality's stylegan2-pytorch. Every
weight of the student is changed a little, the file is exported with it, and a process of its own
loads both files as the original does. That runs what is in NETWORK: name only one that you trust.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import multiprocessing
import sys
import tempfile
import types
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch.torch_version import TorchVersion

import checkpoints
import students
import teachers
from benchmarks import machine
from benchmarks.published import WIDTH, cifar_student, cifar_teacher
from students import originals
from students.foreign import rosinality
from students.r3gan.generator import R3Generator
from students.stylegan2.discriminator import Discriminator

NUM_IMAGES = 4
CHANGE = 0.01  # of each weight, as a fraction
LIMIT = 1e-3
CHANNEL_BASE = 16384  # of rosinality's channel_multiplier 1
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
OFFICIAL = "official"
ACTIONS: dict[str, Callable[[Path], object]] = {
    "bytes": Path.read_bytes,
    "plain data": checkpoints.read,
    "student": students.load,
    "teacher": teachers.load,
}


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own, whose memory and modules end with it."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(function, *arguments).result()


def write_cifar_files(folder: Path) -> list[Path]:
    """Write the student's pickle (G, D and G_ema, 242 MB) and the teacher's (223 MB)."""
    student, teacher = folder / "student.pkl", folder / "teacher.pkl"
    generator = cifar_student()
    discriminator = Discriminator(
        c_dim=0, img_resolution=32, img_channels=3, architecture="orig", channel_max=512, **WIDTH
    )
    networks: dict[str, torch.nn.Module] = {
        "G": generator,
        "D": discriminator.eval().requires_grad_(False),
        "G_ema": copy.deepcopy(generator),
    }
    records = {name: originals.describe(net) for name, net in networks.items()}
    checkpoints.write({"training_set_kwargs": {}, **records, "augment_pipe": None}, student)
    teachers.save(cifar_teacher(), teacher)
    return [student, teacher]


def memory(field: str) -> int:
    """Return VmRSS (resident now) or VmHWM (at its peak) of this process in bytes, on Linux."""
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no {field}")


def measure_here(
    path: Path, action: str, threads: int, checkout: Path | None
) -> tuple[float, int | None]:
    """Return the seconds, and the bytes by which the peak exceeds what was resident before.

    The memory is None where the system does not tell it (elsewhere than on Linux).
    """
    torch.set_num_threads(threads)
    read = ACTIONS[action] if checkout is None else partial(load_officially, checkout)
    if not CLEAR.exists():
        return machine.seconds(lambda: read(path)), None
    CLEAR.write_text("5", encoding="ascii")  # forget the peak so far, which importing torch made
    before = memory("VmRSS")
    # The result lives until the peak is read.
    kept: list[object] = []
    taken = machine.seconds(lambda: kept.append(read(path)))
    return taken, memory("VmHWM") - before


def measure(path: Path, *, repeats: int, checkout: Path | None = None) -> dict[str, Any]:
    """Return times in seconds and peak memory in bytes of each way to read a file.

    Of a student's file also those of the original loader, where there is a checkout of it.
    """
    data = checkpoints.read(path)
    network = "student" if isinstance(data, dict) and "G_ema" in data else "teacher"
    actions = ["bytes", "plain data", network]
    if checkout is not None and network == "student":
        actions.append(OFFICIAL)
    found: dict[str, list[tuple[float, int | None]]] = {action: [] for action in actions}
    for _ in range(repeats):
        for action in actions:
            where = checkout if action == OFFICIAL else None
            found[action].append(apart(measure_here, path, action, torch.get_num_threads(), where))
    ways = {}
    for action, pairs in found.items():
        peaks = [peak for _, peak in pairs if peak is not None]
        ways[action] = {
            "seconds": machine.spread([taken for taken, _ in pairs]),
            "peak_bytes": max(peaks) if peaks else None,
        }
    return {"file": path.name, "bytes": path.stat().st_size, "ways": ways}


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as text: times, ratio of least times to the bytes', memory to size."""
    lines = [
        f"{'file':20} {'MB':>7} {'way':12} {'s':>8} {'min':>8} {'max':>8} {'to bytes':>9} "
        f"{'peak MB':>8} {'to size':>8}"
    ]
    for result in results:
        least = result["ways"]["bytes"]["seconds"]["min"]
        for action, way in result["ways"].items():
            times = way["seconds"]
            peak = way["peak_bytes"]
            space = "" if peak is None else f"{peak / 1e6:8.1f} {peak / result['bytes']:7.2f}x"
            lines.append(
                f"{result['file']:20} {result['bytes'] / 1e6:7.1f} {action:12} "
                f"{times['median']:8.3f} {times['min']:8.3f} {times['max']:8.3f} "
                f"{times['min'] / least:8.1f}x {space}".rstrip()
            )
    return "\n".join(lines)


def load_officially(checkout: Path, path: Path) -> Any:
    """Load a pickle as a checkout of the program does, which runs what is in the file."""
    sys.path.insert(0, str(checkout))
    # stylegan3 compares versions with it; setuptools no longer brings it.
    stand_in: Any = types.ModuleType("pkg_resources")
    stand_in.parse_version = TorchVersion
    sys.modules.setdefault("pkg_resources", stand_in)
    with open(path, "rb") as file:
        return importlib.import_module("legacy").load_network_pkl(file)


def load_rosinality(checkout: Path, path: Path, sizes: dict[str, int]) -> torch.nn.Module:
    """Load g_ema into the Generator of a checkout of rosinality's program."""
    from torch.utils import cpp_extension

    sys.path.insert(0, str(checkout))
    # On the CPU its kernels, which importing it would compile with CUDA, are not called.
    cpp_extension.load = lambda *args, **kwargs: None
    generator = importlib.import_module("model").Generator(**sizes)
    generator.load_state_dict(torch.load(path, weights_only=True)["g_ema"])
    return generator.eval()


def digests(networks: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of each network's call and tensors, by its name."""
    found = {}
    for name, network in networks.items():
        if isinstance(network, torch.nn.Module):
            digest = hashlib.sha256(str(getattr(network, "init_kwargs", None)).encode())
            for key, tensor in network.state_dict().items():
                digest.update(key.encode() + tensor.float().numpy().tobytes())
            found[name] = digest.hexdigest()
    return found


def images_there(
    checkout: Path, path: Path, network: str, z: torch.Tensor, c: torch.Tensor, options: Any
) -> tuple[torch.Tensor, dict[str, str]]:
    """Images of one network of a file by the original's code, and the digests of all of them."""
    networks = load_officially(checkout, path)
    with torch.no_grad():
        return networks[network](z, c, **options).float(), digests(networks)


def images_at_rosinality(
    checkout: Path, path: Path, sizes: dict[str, int], z: torch.Tensor
) -> torch.Tensor:
    """Images of a file's g_ema by rosinality's code, with the noise that the file keeps."""
    generator = load_rosinality(checkout, path, sizes)
    with torch.no_grad():
        return generator([z], randomize_noise=False)[0]


def changed(path: Path, network: str) -> Any:
    """The student of a file with every weight changed a little."""
    student = students.load(path, network=network)
    stream = torch.Generator().manual_seed(0)
    for weight in student.parameters():
        weight.mul_(1 + CHANGE * torch.randn(weight.shape, generator=stream))
    return student


def compare(path: Path, checkout: Path, network: str) -> dict[str, Any]:
    """Export a changed student; the largest difference of images, their range, what else moved."""
    student = changed(path, network)
    z = student.sample_latents(NUM_IMAGES, generator=torch.Generator().manual_seed(0))
    classes = max(student.c_dim, 1)
    c = torch.eye(classes)[torch.arange(NUM_IMAGES) % classes, : student.c_dim]
    # R3GAN computes in bfloat16 wherever it runs.
    is_r3 = isinstance(student, R3Generator)
    exact = {"noise_mode": "const", "force_fp32": not is_r3}
    with torch.no_grad():
        ours = student(z, c, **exact)
    moved: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder, path.name)
        if (checkout / "legacy.py").exists():
            students.save(student, exported, like=path, network=network)
            options = {} if is_r3 else exact
            theirs, after = apart(images_there, checkout, exported, network, z, c, options)
            _, before = apart(images_there, checkout, path, network, z, c, options)
            moved = [name for name in before if name != network and before[name] != after[name]]
        else:
            rosinality.save(student, exported)
            base = student.init_kwargs["synthesis_kwargs"]["channel_base"]
            sizes = {
                "size": student.img_resolution,
                "style_dim": student.w_dim,
                "n_mlp": student.mapping.num_layers,
                "channel_multiplier": base // CHANNEL_BASE,
            }
            theirs = apart(images_at_rosinality, checkout, exported, sizes, z)
    difference = float((ours - theirs).abs().max())
    return {"difference": difference, "range": float(ours.abs().max()), "moved": moved}


@click.group()
def main() -> None:
    """Read network files."""


@main.command()
@click.argument("files", nargs=-1, type=machine.FILE)
@click.option(
    "--size",
    type=click.Choice(["files", "cifar"]),
    default="files",
    show_default=True,
    help="cifar: files of the published CIFAR-10 sizes with random weights, written for this.",
)
@machine.official_option(of="stylegan2-ada-pytorch, whose loader is timed too")
@machine.number_option("--repeats", 3)
@machine.threads_option
@machine.json_option
def load(
    files: tuple[Path, ...], size: str, official: Path | None, repeats: int, json_file: Path | None
) -> None:
    """Time the reading of network FILEs (the demo's, if none are named)."""
    with tempfile.TemporaryDirectory() as folder:
        if size == "cifar":
            chosen = write_cifar_files(Path(folder))
        else:
            chosen = list(files) or [machine.DEMO / "student.pkl", machine.DEMO / "teacher.pkl"]
        try:
            results = [measure(path, repeats=repeats, checkout=official) for path in chosen]
        except (OSError, ValueError) as error:
            raise click.UsageError(str(error)) from error
    machine.report(table(results), {"repeats": repeats, "files": results}, json_file)


@main.command()
@click.argument("path", metavar="NETWORK", type=machine.FILE)
@machine.official_option(of="the program that wrote the file", required=True)
@click.option("--network", default="G_ema", show_default=True)
def export(path: Path, official: Path, network: str) -> None:
    """Compare the images of an export of NETWORK with those of the original program."""
    torch.set_num_threads(1)
    found = compare(path, official, network)
    moved = found["moved"]
    click.echo(
        f"{path.name}: images up to {found['range']:.2g} differ by at most "
        f"{found['difference']:.1e}; other networks that changed: {', '.join(moved) or 'none'}"
    )
    sys.exit(bool(moved) or not found["difference"] <= LIMIT)


if __name__ == "__main__":
    main()
