"""Pictures of styles: ws of a file, styles mixed between seeds, and a way through seeds.

What is asked of a student here is that of style-based generators: `mapping(z, c)` gives ws [n,
num_ws, w_dim], and `synthesis(ws)` images of them.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline

import checkpoints
from roles.budget import check_unpacked, file_size
from students.base import StudentModule, check_noise_mode
from students.seeds import draw_latent, drawn, labels_of

MAGIC = b"\x93NUMPY\x01\x00"
HEADER = re.compile(
    rb"\{'descr': '<(f[248])', 'fortran_order': False, "
    rb"'shape': \(((?:[0-9]{1,9}, ?)*(?:[0-9]{1,9})?)\), \} *\n?"
)
KEYS = ("w", "ws", "projected_w", "latent")  # of arrays and tensors in files


def is_style_based(student: object) -> bool:
    """Whether a student has ws between its latents and its images."""
    return all(hasattr(student, name) for name in ("mapping", "synthesis"))


def _require_styles(student: StudentModule) -> None:
    if not is_style_based(student):
        raise ValueError(f"a {type(student).__name__} has no ws; take a style-based generator")


def read_ws(path: str | Path, student: StudentModule) -> Float[torch.Tensor, "n num_ws w_dim"]:
    """The ws of a file, as projectors write them: .npz or .npy with w, or a torch file.

    [n, num_ws, w_dim], [num_ws, w_dim], or w of which every layer gets the same, [n, w_dim].

    Raises:
        ValueError: the file holds no such numbers, or they are not finite.
        OSError: it cannot be read.
    """
    _require_styles(student)
    num_ws, w_dim = int(student.num_ws), int(student.w_dim)  # pyright: ignore  # of such networks
    path = Path(path)
    found: object
    if path.suffix == ".npy":
        file_size(path)
        found = _array(path.read_bytes(), path)
    elif path.suffix == ".npz":
        found = _array(_member(path), path)
    else:
        found = checkpoints.read(path)
        if isinstance(found, dict):
            found = found[_key(found, path)]
    ws = torch.as_tensor(found) if isinstance(found, (np.ndarray, torch.Tensor)) else None
    if ws is None or not ws.is_floating_point():
        raise ValueError(f"{path} holds no ws; give them as floating-point numbers called w")
    ws = ws.detach().float().cpu()
    if list(ws.shape) == [num_ws, w_dim]:
        ws = ws[None]
    elif ws.ndim == 2 and ws.shape[1] == w_dim:
        ws = ws[:, None].expand(-1, num_ws, -1)
    if ws.ndim != 3 or list(ws.shape[1:]) != [num_ws, w_dim] or not len(ws):
        raise ValueError(
            f"{path} holds ws of the shape {list(ws.shape)}; this network takes [n, {num_ws}, "
            f"{w_dim}]"
        )
    checkpoints.check_finite({f"{path}: w": ws})
    return ws


def _key(held: Container[object], path: Path) -> str:
    for key in KEYS:
        if key in held:
            return key
    raise ValueError(f"{path} holds no ws; they are called {', '.join(KEYS)}")


def _member(path: Path) -> bytes:
    """The bytes of the array of an .npz."""
    file_size(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            info = archive.getinfo(f"{_key(names, path)}.npy")
            check_unpacked(info.file_size, info.compress_size, str(path))
            return archive.read(info)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path}: not a readable .npz file ({error})") from None


def _array(raw: bytes, path: Path) -> np.ndarray:
    """An array of NumPy's format 1.0, whose header is read by its form and never evaluated."""
    start = raw[: len(MAGIC)] == MAGIC and len(MAGIC) + 2 + int.from_bytes(
        raw[len(MAGIC) : len(MAGIC) + 2], "little"
    )
    header = HEADER.fullmatch(raw[len(MAGIC) + 2 : start or 0])
    if not start or header is None:
        raise ValueError(f"{path} holds no array of floating-point numbers, row by row")
    dtype = np.dtype(f"<{header[1].decode()}")
    shape = tuple(int(size) for size in re.findall(rb"\d+", header[2]))
    rest = raw[start:]
    if len(rest) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{path} holds {dtype} {list(shape)} in {len(rest)} bytes")
    return np.frombuffer(rest, dtype).reshape(shape).astype(np.float32)


@torch.no_grad()
def of_ws(
    student: StudentModule, ws: Float[torch.Tensor, "n num_ws w_dim"], *, noise_mode: str = "const"
) -> Iterator[np.ndarray]:
    """Yield one uint8 image [c, h, w] of each ws [num_ws, w_dim].

    Raises:
        ValueError: a student without ws, an image that is not finite, an unknown noise_mode.
    """
    _require_styles(student)
    check_noise_mode(noise_mode)
    device = next(student.parameters()).device
    for number, w in enumerate(ws):
        image = student.get_submodule("synthesis")(w[None].to(device), noise_mode=noise_mode)[0]
        yield drawn(image, f"image of ws {number}")


@torch.no_grad()
def ws_of(
    student: StudentModule,
    seeds: Sequence[int],
    *,
    truncation_psi: float = 1.0,
    label: int | Sequence[int] | None = None,
) -> Float[torch.Tensor, "n num_ws w_dim"]:
    """The ws of seeds, of which `generate` makes the same images."""
    _require_styles(student)
    device = next(student.parameters()).device
    found = []
    for seed, k in zip(seeds, labels_of(student, label, len(seeds)), strict=True):
        z, c = draw_latent(student, seed, k, device)
        ws = student.get_submodule("mapping")(z, c, truncation_psi=truncation_psi)
        found.append(ws.cpu())
    return torch.cat(found)


def mixed(
    student: StudentModule,
    rows: Sequence[int],
    columns: Sequence[int],
    styles: Sequence[int],
    *,
    truncation_psi: float = 1.0,
    label: int | None = None,
    noise_mode: str = "const",
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (row seed, column seed, image): the row's ws with these of the column's (ADA's grid).

    Raises:
        ValueError: styles that the network does not have; others as those of generate.
    """
    options = {"truncation_psi": truncation_psi, "label": label}
    of_rows, of_columns = (ws_of(student, seeds, **options) for seeds in (rows, columns))
    num_ws = of_rows.shape[1]
    if any(not 0 <= style < num_ws for style in styles):
        raise ValueError(f"a style is {max(styles)}; this network has the styles 0 to {num_ws - 1}")
    for row, first in zip(rows, of_rows, strict=True):
        for column, second in zip(columns, of_columns, strict=True):
            ws = first.clone()
            ws[list(styles)] = second[list(styles)]
            (image,) = of_ws(student, ws[None], noise_mode=noise_mode)
            yield row, column, image


def walk(
    student: StudentModule,
    seeds: Sequence[int],
    frames: int,
    *,
    truncation_psi: float = 1.0,
    label: int | Sequence[int] | None = None,
    noise_mode: str = "const",
) -> Iterator[np.ndarray]:
    """Yield `frames` images from each seed to the next, and from the last to the first.

    On a periodic cubic spline through the seeds' ws, whose speed never jumps; with two seeds or
    one, the way there and back. Image i * frames is that of seed i.

    Raises:
        ValueError: no seed or frame; others as those of generate.
    """
    if not seeds or frames < 1:
        raise ValueError(f"{len(seeds)} seeds and {frames} frames between; give at least 1 of each")
    ws = ws_of(student, seeds, truncation_psi=truncation_psi, label=label)
    knots = torch.cat([ws, ws[:1]]).double().numpy()
    way = CubicSpline(np.arange(len(knots)), knots, bc_type="periodic")
    for i in range(len(seeds) * frames):
        at = torch.from_numpy(np.asarray(way(i / frames))).float()
        (image,) = of_ws(student, at[None], noise_mode=noise_mode)
        yield image
