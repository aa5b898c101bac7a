"""Time what metrics are made of, against the tools they replace, in one run.

    python -m benchmarks.metrics [--dims 2048] [--images 64] [--repeats 3] [--json FILE]

frechet     the Frechet distance of two covariances, against scipy.linalg.sqrtm of their product
inception   the 2015 network's forward pass with random weights, against torch-fidelity's
whole       images on disk to a Frechet distance from statistics in a file, weights read on the way:
            ours of a zip, against torch_fidelity.calculate_metrics of the same files unpacked

The weights are random: no time depends on them. Ratios are of the least times, taken in turn, so
that a busy machine slows both sides.
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

import datasets
import metrics
from benchmarks import machine
from metrics.inception import parameter_names

SIZE = 32
DIMS = 2048
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

    return {"ours": lambda: metrics.frechet_distance(*a, *b), "theirs": theirs}


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


def torch_fidelity(path: Path) -> Any:
    """Return torch-fidelity's calculate_metrics, its extractor, and what must outlive them.

    None where it is not installed.
    """
    # Torchvision, which it imports and does not need here, asks for operators that it has only
    # beside the torch it was built for.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    try:
        package = importlib.import_module("torch_fidelity")
        module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    except (ImportError, RuntimeError) as error:
        click.echo(f"torch-fidelity cannot be imported ({error}): its rows are left out")
        return None
    kind = module.FeatureExtractorInceptionV3
    extractor = kind("inception", ["2048"], feature_extractor_weights_path=str(path))
    return package.calculate_metrics, extractor, library


def whole(
    calculate: Any, weights: Path, digest: str, folder: Path
) -> dict[str, Callable[[], object]]:
    """The images of folder/images.zip and folder/images to their distance from one Gaussian."""
    space = metrics.inception_features(weights, sha256=digest)
    gaussian = metrics.Statistics(np.zeros(DIMS), np.eye(DIMS), space=space.name)
    metrics.save_statistics(folder / "reference.npz", gaussian)
    mu, sigma = np.zeros(DIMS, np.float32), np.eye(DIMS)
    name = "reference-inception-v3-compat-stat-fid-2048.pt"
    torch.save({"mu": mu, "sigma": sigma}, folder / name)

    def ours() -> float:
        features = metrics.inception_features(weights, sha256=digest)
        real = metrics.open_reference(folder / "reference.npz", features).statistics
        found = metrics.open_reference(folder / "images.zip", features, batch=50).statistics
        return metrics.frechet_distance(found.mu, found.sigma, real.mu, real.sigma)

    def theirs() -> float:
        found = calculate(
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

    return {"ours": ours, "theirs": theirs}


def ratio(pair: dict[str, Callable[[], object]], repeats: int) -> dict[str, Any]:
    """Least times of both, and how many times faster ours is."""
    times: dict[str, list[float]] = {name: [] for name in pair}
    for _ in range(repeats):
        for name, function in pair.items():
            times[name].append(machine.seconds(function))
    spreads = {name: machine.spread(values) for name, values in times.items()}
    return {**spreads, "ratio": min(times["theirs"]) / min(times["ours"])}


def measure(*, dims: int, images: int, repeats: int) -> dict[str, Any]:
    """Every row that can be timed here."""
    rows = {f"frechet, {dims} dimensions": ratio(frechet(dims), repeats)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        digest = write_weights(path)
        tools = torch_fidelity(path)
        if tools is not None:
            calculate, theirs, _ = tools
            ours = metrics.inception_features(path, sha256=digest)
            rng = np.random.default_rng(0)
            x = torch.from_numpy(rng.integers(0, 256, (BATCH, 3, SIZE, SIZE), dtype=np.uint8))
            pair = {"ours": lambda: ours(x), "theirs": torch.no_grad()(lambda: theirs(x))}
            ratio(pair, 1)  # The first calls choose kernels.
            rows[f"inception, {BATCH} images"] = ratio(pair, repeats)
            pixels = rng.integers(0, 256, (images, 3, SIZE, SIZE), dtype=np.uint8)
            datasets.write_zip(Path(folder) / "images.zip", pixels)
            with zipfile.ZipFile(Path(folder) / "images.zip") as archive:
                archive.extractall(Path(folder) / "images")
            both = whole(calculate, path, digest, Path(folder))
            rows[f"whole, {images} images"] = ratio(both, 1)
    return {"machine": machine.describe(), "repeats": repeats, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """Return the result as text, one line a row."""
    lines = [machine.headline(result["machine"]), f"{'':32} {'ours s':>9} {'theirs s':>9} ratio"]
    for name, row in result["rows"].items():
        times = f"{row['ours']['min']:9.3f} {row['theirs']['min']:9.3f}"
        lines.append(f"{name:32} {times} {row['ratio']:5.1f}")
    return "\n".join(lines)


@click.command()
@click.option("--dims", metavar="INT", type=click.IntRange(min=2), default=2048, show_default=True)
@click.option("--images", metavar="INT", type=click.IntRange(min=4), default=64, show_default=True)
@click.option("--repeats", metavar="INT", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--json", "json_file", metavar="FILE", type=click.Path(path_type=Path))
def main(dims: int, images: int, repeats: int, json_file: Path | None) -> None:
    """Time the parts of the metrics against scipy and torch-fidelity, on one thread."""
    torch.set_num_threads(1)
    result = measure(dims=dims, images=images, repeats=repeats)
    click.echo(table(result))
    if json_file is not None:
        machine.write_json(json_file, result)


if __name__ == "__main__":
    main()
