"""Exported files in the original programs: do they load there, and are the images ours?

    python -m benchmarks.originals NETWORK --official DIR [--network G_ema]

NETWORK is a file that the original program wrote, DIR a checkout of that program: NVIDIA's
stylegan2-ada-pytorch or stylegan3, stylegan-xl, R3GAN, or rosinality's stylegan2-pytorch. Every
weight of the student is changed a little, the file is exported with it, and a process of its own
loads both files as the original does. That runs what is in NETWORK: name only one that you trust.
"""

from __future__ import annotations

import hashlib
import importlib
import multiprocessing
import sys
import tempfile
import types
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import torch
from torch.torch_version import TorchVersion

import students
from students.foreign import rosinality
from students.r3gan.generator import R3Generator

NUM_IMAGES = 4
CHANGE = 0.01  # of each weight, as a fraction
LIMIT = 1e-3
CHANNEL_BASE = 16384  # of rosinality's channel_multiplier 1


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


def apart(function: Any, *arguments: Any) -> Any:
    """Call a function in a process of its own, so that the original's modules stay there."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(function, *arguments).result()


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


@click.command()
@click.argument("path", metavar="NETWORK", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--official",
    metavar="DIR",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A checkout of the program that wrote the file.",
)
@click.option("--network", default="G_ema", show_default=True)
def main(path: Path, official: Path, network: str) -> None:
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
