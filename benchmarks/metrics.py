"""Time what metrics are made of, against the tools they replace, in one run.

    python -m benchmarks.metrics [--dims 2048] [--images 64] [--repeats 3] [--threads N]
                                 [--json FILE]

frechet     the Frechet distance of two covariances, against scipy.linalg.sqrtm of their product
inception   the 2015 network's forward pass with random weights, against torch-fidelity's
whole       images on disk to a Frechet distance from statistics in a file, weights read on the way:
            ours of a zip, against torch_fidelity.calculate_metrics and pytorch_fid of the same
            files unpacked

The weights are random: no time depends on them. Ratios are of the least times, taken in turn, so
that a busy machine slows all sides. Rows of tools that are not installed are left out.
"""

from __future__ import annotations

import hashlib
import importlib
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import scipy.linalg
import torch

import image_sets
import metrics
from benchmarks import machine
from metrics.spaces.inception import parameter_names

SIZE = 32
DIMS = 2048
REFERENCE_OF_TORCH_FIDELITY = "reference-inception-v3-compat-stat-fid-2048.pt"  # by its own rule
BATCH = 16  # of the forward pass; theirs loses more with larger ones


def frechet(dims: int) -> dict[str, Callable[[], object]]:
    """Ours and scipy's way from two sets of moments to the distance."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2 * dims, dims))
    y = 1.1 * rng.standard_normal((2 * dims, dims)) + 0.1
    a, b = ((f.mean(0), np.cov(f, rowvar=False)) for f in (x, y))

    def theirs() -> float:
        root = scipy.linalg.sqrtm(a[1] @ b[1])
        step = np.square(a[0] - b[0]).sum()
        return step + np.trace(a[1]) + np.trace(b[1]) - 2 * np.trace(np.real(np.asarray(root)))

    return {"ours": lambda: metrics.frechet_distance(*a, *b), "scipy": theirs}


def write_weights(path: Path) -> str:
    """Write random weights in the public file's names; return their SHA-256."""
    generator = torch.Generator().manual_seed(0)
    weights = {"fc.bias": torch.zeros(1008)}
    for name, shape in parameter_names():
        scale = float(2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
        weights[name] = scale * torch.randn(shape, generator=generator)
        if name.endswith(("running_var", "bn.weight")):
            weights[name] = weights[name].abs() + 0.5
        if name.endswith("bn.weight"):
            weights[name.removesuffix("weight") + "num_batches_tracked"] = torch.tensor(0)
    torch.save(weights, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stand_in_for_torchvision() -> torch.library.Library:
    """Define what torchvision asks for beside another torch than it was built for.

    The other tools import it and need none of that here. What is returned must outlive them.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def installed(name: str) -> Any:
    """Return a module, or None and a line that says why not."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        click.echo(f"{name} cannot be imported ({error}): its rows are left out")
        return None


def whole(weights: Path, digest: str, folder: Path) -> dict[str, Callable[[], object]]:
    """The images of folder/images.zip and folder/images to their distance from one Gaussian."""
    space = metrics.inception_features(weights, sha256=digest)
    gaussian = metrics.Statistics(np.zeros(DIMS), np.eye(DIMS), space=space.name)
    metrics.save_statistics(folder / "reference.npz", gaussian)
    mu, sigma = np.zeros(DIMS, np.float32), np.eye(DIMS)
    torch.save({"mu": mu, "sigma": sigma}, folder / REFERENCE_OF_TORCH_FIDELITY)
    np.savez(folder / "plain.npz", mu=mu, sigma=sigma)

    def ours() -> float:
        features = metrics.inception_features(weights, sha256=digest)
        real = metrics.open_reference(folder / "reference.npz", features).statistics
        found = metrics.open_reference(folder / "images.zip", features, batch=50).statistics
        return metrics.frechet_distance(found.mu, found.sigma, real.mu, real.sigma)

    def torch_fidelity() -> float:
        found = fidelity.calculate_metrics(
            input1=str(folder / "images"),
            input2=str(folder / "images"),
            input2_cache_name="reference",
            cache_root=str(folder),
            samples_find_deep=True,
            feature_extractor_weights_path=str(weights),
            fid=True,
            cuda=False,
            verbose=False,
        )
        return found["frechet_inception_distance"]

    def pytorch_fid() -> float:
        paths = [str(folder / "plain.npz"), str(flat)]
        return fid.calculate_fid_given_paths(paths, 50, "cpu", DIMS, num_workers=0)

    sides: dict[str, Callable[[], object]] = {"ours": ours}
    fidelity, fid = installed("torch_fidelity"), installed("pytorch_fid.fid_score")
    if fidelity is not None:
        sides["torch-fidelity"] = torch_fidelity
    if fid is not None:
        sides["pytorch-fid"] = pytorch_fid
        # It reads one folder's own files, and its weights where torch keeps what it has downloaded.
        flat = folder / "flat"
        flat.mkdir()
        for path in (folder / "images").rglob("*.png"):
            (flat / path.name).symlink_to(path)
        (folder / "checkpoints").mkdir()
        torch.hub.set_dir(folder)
        (folder / "checkpoints" / Path(fid_url()).name).symlink_to(weights)
    return sides


def fid_url() -> str:
    """Return where pytorch-fid would download its weights from."""
    return importlib.import_module("pytorch_fid.inception").FID_WEIGHTS_URL


def row(sides: dict[str, Callable[[], object]], repeats: int, *, warm_up: bool) -> dict[str, Any]:
    """Seconds of each side, and how many times as fast as each other one ours is."""
    times = machine.in_turn(sides, repeats, warm_up=warm_up)
    least = {name: min(values) for name, values in times.items()}
    return {
        "seconds": {name: machine.spread(values) for name, values in times.items()},
        "ratio": {name: least[name] / least["ours"] for name in sides if name != "ours"},
    }


def measure(*, dims: int, images: int, repeats: int) -> dict[str, Any]:
    """Every row that can be timed here."""
    rows = {f"frechet, {dims} dimensions": row(frechet(dims), repeats, warm_up=False)}
    library = stand_in_for_torchvision()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / "weights.pth"
        digest = write_weights(weights)
        rng = np.random.default_rng(0)
        module = installed("torch_fidelity.feature_extractor_inceptionv3")
        if module is not None:
            ours = metrics.inception_features(weights, sha256=digest)
            kind = module.FeatureExtractorInceptionV3
            theirs = kind("inception", ["2048"], feature_extractor_weights_path=str(weights))
            x = torch.from_numpy(rng.integers(0, 256, (BATCH, 3, SIZE, SIZE), dtype=np.uint8))
            sides = {"ours": lambda: ours(x), "torch-fidelity": torch.no_grad()(lambda: theirs(x))}
            rows[f"inception, {BATCH} images"] = row(sides, repeats, warm_up=True)
        pixels = rng.integers(0, 256, (images, 3, SIZE, SIZE), dtype=np.uint8)
        image_sets.write_zip(folder / "images.zip", pixels)
        with zipfile.ZipFile(folder / "images.zip") as archive:
            archive.extractall(folder / "images")
        rows[f"whole, {images} images"] = row(whole(weights, digest, folder), 1, warm_up=False)
    del library
    return {"repeats": repeats, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """Return the result as text, one line for each other side of a row."""
    lines = [f"{'':44} {'ours s':>9} {'theirs s':>9} ratio"]
    for row, of in result["rows"].items():
        ours = of["seconds"]["ours"]["min"]
        for name, ratio in of["ratio"].items():
            theirs = of["seconds"][name]["min"]
            lines.append(f"{row + ' / ' + name:44} {ours:9.3f} {theirs:9.3f} {ratio:5.1f}")
    return "\n".join(lines)


@click.command()
@machine.number_option("--dims", 2048, least=2)
@machine.number_option("--images", 64, least=4)
@machine.number_option("--repeats", 3)
@machine.threads_option
@machine.json_option
def main(dims: int, images: int, repeats: int, json_file: Path | None) -> None:
    """Time the parts of the metrics against scipy and torch-fidelity."""
    result = measure(dims=dims, images=images, repeats=repeats)
    machine.report(table(result), result, json_file)


if __name__ == "__main__":
    main()
