"""A generator as ONNX, checked against onnxruntime as soon as it is written.

A style-based generator becomes two files: FILE takes ws [n, num_ws, w_dim] and gives images with
the file's fixed noise, and FILE-mapping takes z (and c) and gives ws, without truncation. Any other
becomes a single file from z (and c) to images. n is free; all is float32. The packages of the extra
`onnx` are imported only here.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from checkpoints import replacing
from students.base import StudentModule

OPSET = 18  # what torch's exporter writes without converting, since torch 2.6
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class Synthesis(torch.nn.Module):
    """ws -> images with fixed noise."""

    def __init__(self, student: StudentModule):
        super().__init__()
        self.synthesis = student.get_submodule("synthesis")

    def forward(self, ws: torch.Tensor) -> torch.Tensor:
        """Return images [n, c, h, w] of ws [n, num_ws, w_dim]."""
        return self.synthesis(ws, noise_mode="const", force_fp32=True)


class Mapping(torch.nn.Module):
    """z, c -> ws."""

    def __init__(self, student: StudentModule):
        super().__init__()
        self.mapping = student.get_submodule("mapping")

    def forward(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Return ws [n, num_ws, w_dim], not truncated."""
        return self.mapping(z, c)


def save(student: StudentModule, path: str | Path, *, seeds: Sequence[int]) -> float:
    """Write a generator as ONNX of opset OPSET and compare onnxruntime's outputs with torch's.

    Args:
        student: a generator on the CPU, in eval mode.
        path: the file; that of the mapping is beside it, as NAME-mapping.onnx.
        seeds: of the latents that are compared, at least two.

    Returns:
        The largest difference, of images and of ws.

    Raises:
        ValueError: a package of the extra is not installed, or the network has an operation that
            the exporter cannot write.
        OSError: a file cannot be written.
    """
    require_packages()
    path = Path(path)
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]
    inputs = {"z": torch.cat([student.sample_latents(1, generator=own) for own in streams])}
    if student.c_dim:
        inputs["c"] = torch.eye(student.c_dim)[[seed % student.c_dim for seed in seeds]]
    if not hasattr(student, "mapping"):
        return write_graph(student, inputs, path, "images")
    mapping = Mapping(student)
    beside = path.with_name(f"{path.stem}-mapping{path.suffix}")
    worst = write_graph(mapping, inputs, beside, "ws")
    with torch.no_grad():
        ws = mapping(*inputs.values())
    return max(worst, write_graph(Synthesis(student), {"ws": ws}, path, "images"))


def require_packages() -> None:
    """Raise ValueError unless the packages of the extra are installed."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"ONNX export needs {name}, which is not installed; "
                "pip install 'stylegan-refiner[onnx]'"
            ) from error


def write_graph(
    module: torch.nn.Module, inputs: dict[str, torch.Tensor], path: Path, output: str
) -> float:
    """Write one graph; the largest difference of its outputs from the module's, one by one.

    Raises:
        ValueError: the exporter cannot write the module.
        OSError: the file cannot be written.
    """
    import onnxruntime  # pyright: ignore[reportMissingImports]  # optional

    rows = torch.export.Dim("n", min=1)
    try:
        with quiet():
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=[output],
                opset_version=OPSET,
                dynamic_shapes=tuple({0: rows} for _ in inputs),
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(
            f"torch's exporter cannot write this network: {str(error)[:200]}"
        ) from error
    if program is None:
        raise ValueError("torch's exporter wrote no graph; its version is too old")
    with replacing(path) as file:
        file.write(program.model_proto.SerializeToString())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for i in range(next(iter(inputs.values())).shape[0]):
        one = {name: value[i : i + 1] for name, value in inputs.items()}
        with torch.no_grad():
            expected = module(*one.values())
        (found,) = session.run(None, {name: value.numpy() for name, value in one.items()})
        worst = max(worst, (torch.from_numpy(found) - expected).abs().max().item())
    return worst


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what the exporter says about itself: packages it does without, and its imports."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", kind)
        try:
            yield
        finally:
            logger.setLevel(level)
