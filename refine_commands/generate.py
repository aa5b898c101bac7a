"""`refine.py generate`: images by seed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from refine_commands.options import device_option

if TYPE_CHECKING:
    import numpy as np

    from checkpoints import Value
    from refiners.progressive import Progressive
    from students.base import StudentModule

MAX_LOOP_BYTES = 2**31
FRAME_MS = 33  # 30 a second
STEPS = 18  # of Heun's method, for CIFAR-10 (Karras et al. 2022, Table 1)


def parse_seeds(text: str, flag: str = "--seeds") -> list[int]:
    """Turn "0-3,7" into [0, 1, 2, 3, 7]."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?", part)
        if match is None:
            raise ValueError(f"{flag} is {text!r}; allowed are numbers and ranges, as in 0-63,100")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= 1_000_000:
            raise ValueError(f"{flag} has the range {part!r}; it must rise, by less than a million")
        seeds.extend(range(first, last + 1))
    return seeds


@dataclass(frozen=True)
class Wishes:
    """The options that not every kind of network has; None was not given."""

    trunc: float | None
    noise_mode: str | None
    steps: int | None
    init_sigma: float | None

    def refuse(self, network: str, kind: str, *names: str) -> None:
        """Raise ValueError if one of these options was given for a network of this kind."""
        for name in names:
            if getattr(self, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{network} is {kind}, which has no {flag}; leave it out")


@click.command()
@click.option(
    "--network",
    metavar="PKL|URL|NAME",
    required=True,
    help="A generator, a denoiser, or a folder of diffusers.",
)
@click.option(
    "--seeds",
    metavar="RANGE",
    default="0-63",
    show_default=True,
    help="One image a seed, as 0-63,100.",
)
@click.option(
    "--outdir", metavar="DIR", type=click.Path(path_type=Path, file_okay=False), required=True
)
@click.option(
    "--trunc", metavar="PSI", type=float, help="StyleGAN: truncation; 1, the default, is none."
)
@click.option(
    "--class",
    "label",
    metavar="INT|RANGE",
    help="Class of a conditional network, or one for each seed, as 0-9; without it, seeds draw.",
)
@click.option(
    "--noise-mode",
    type=click.Choice(["const", "random", "none"]),
    help="StyleGAN2: the noise of its layers.  [default: const]",
)
@click.option(
    "--steps",
    metavar="INT",
    type=click.IntRange(min=1),
    help=f"Denoiser: steps of Heun's method; a distilled one has its own.  [default: {STEPS}]",
)
@click.option(
    "--init-sigma",
    metavar="SIGMA",
    type=float,
    help="Denoiser: one step from this noise level; of a file written here, the recorded one.",
)
@click.option("--grid", is_flag=True, help="Also write grid.png with all images.")
@click.option(
    "--batch",
    metavar="INT",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Images of a denoiser at a time; the images do not depend on it.",
)
@click.option(
    "--projected-w",
    metavar="NPZ|PT",
    type=click.Path(path_type=Path, dir_okay=False),
    help="StyleGAN: images of the ws in this file (w [n, num_ws, w_dim]) instead of seeds.",
)
@click.option("--rows", metavar="RANGE", help="StyleGAN: seeds of rows of mixed styles.")
@click.option("--cols", metavar="RANGE", help="StyleGAN: seeds of columns, whose --styles go in.")
@click.option(
    "--styles",
    metavar="RANGE",
    default="0-6",
    show_default=True,
    help="StyleGAN: which of a column's ws replace the row's.",
)
@click.option(
    "--video",
    metavar="WEBP|GIF",
    type=click.Path(path_type=Path, dir_okay=False),
    help="StyleGAN: also a loop through the seeds, in this file.",
)
@click.option(
    "--frames",
    metavar="INT",
    type=click.IntRange(min=1, max=10000),
    default=60,
    show_default=True,
    help="Images of the loop from each seed to the next, 30 a second.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the files written as JSON.")
@device_option
def generate(
    network: str,
    seeds: str,
    outdir: Path,
    trunc: float | None,
    label: str | None,
    noise_mode: str | None,
    steps: int | None,
    init_sigma: float | None,
    grid: bool,
    batch: int,
    projected_w: Path | None,
    rows: str | None,
    cols: str | None,
    styles: str,
    video: Path | None,
    frames: int,
    as_json: bool,
    device: str,
) -> None:
    """Write seedNNNN.png for each seed; an image depends on its seed alone.

    With --projected-w, projNNNN.png of the ws in a file; with --rows and --cols, ROW-COL.png of
    mixed styles and their grid.
    """
    import numpy as np

    import image_sets
    from roles.device import pick_device

    chosen = parse_seeds(seeds)
    wishes = Wishes(trunc, noise_mode, steps, init_sigma)
    labels = None if label is None else parse_seeds(label, "--class")
    device = pick_device(device)
    columns = 0
    if projected_w is not None or rows is not None or cols is not None:
        if None not in (projected_w, rows) or (rows is None) != (cols is None) or video:
            raise ValueError("give one of --projected-w, --video, or --rows and --cols together")
        student = styled(network, wishes, device)
        if rows is not None and cols is not None:
            pairs = parse_seeds(rows, "--rows"), parse_seeds(cols, "--cols")
            columns, grid = len(pairs[1]), True
            pictures = mixed(student, *pairs, parse_seeds(styles, "--styles"), wishes, labels)
        else:
            if trunc is not None or labels is not None:
                raise ValueError("ws of a file have their class and truncation; leave them out")
            pictures = projected(student, cast("Path", projected_w), wishes)
    else:
        if video is not None:
            check_video(video)
        images = make_images(network, chosen, wishes, labels, batch, device)
        pictures = zip((f"seed{seed:04d}" for seed in chosen), images, strict=True)
    kept, files = [], []
    for name, image in pictures:
        outdir.mkdir(parents=True, exist_ok=True)  # not before an image shows that all is well
        seed = {"seed": int(name[4:])} if name.startswith("seed") else {}
        files.append(seed | {"file": str(outdir / f"{name}.png")})
        image_sets.save_png(files[-1]["file"], image_sets.image_grid(image[None], 1))
        if grid:
            kept.append(image)
    if grid:
        columns = columns or max(1, round(len(kept) ** 0.5))
        image_sets.save_png(outdir / "grid.png", image_sets.image_grid(np.stack(kept), columns))
    if video is not None:
        save_walk(styled(network, wishes, device), chosen, frames, wishes, labels, video)
    if as_json:
        facts = {"network": network, "images": files}
        facts |= {"video": str(video)} if video else {}
        print(json.dumps(facts | ({"grid": str(outdir / "grid.png")} if grid else {}), indent=1))
    else:
        print(f"{len(files)} images in {outdir}" + (f", a loop in {video}" if video else ""))


def styled(network: str, wishes: Wishes, device: str) -> StudentModule:
    """Load a style-based generator; ValueError where the file holds something else."""
    import checkpoints
    import students
    from students.styles import is_style_based

    wishes.refuse(network, "asked for styles", "steps", "init_sigma")
    student = students.load(checkpoints.local(network), device=device)
    if not is_style_based(student):
        raise ValueError(f"{network} is no style-based generator, which has ws to mix and to walk")
    return student


def projected(
    student: StudentModule, path: Path, wishes: Wishes
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and images of the ws in a file."""
    from students.styles import of_ws, read_ws

    ws = read_ws(path, student)
    for number, image in enumerate(of_ws(student, ws, noise_mode=wishes.noise_mode or "const")):
        yield f"proj{number:04d}", image


def mixed(
    student: StudentModule,
    rows: Sequence[int],
    columns: Sequence[int],
    styles: Sequence[int],
    wishes: Wishes,
    labels: Sequence[int] | None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and images of mixed styles, row by row."""
    from students import styles as of_styles

    if labels is not None and len(labels) != 1:
        raise ValueError("rows and columns have one --class together")
    found = of_styles.mixed(
        student,
        rows,
        columns,
        styles,
        truncation_psi=1.0 if wishes.trunc is None else wishes.trunc,
        label=labels[0] if labels else None,
        noise_mode=wishes.noise_mode or "const",
    )
    for row, column, image in found:
        yield f"{row}-{column}", image


def check_video(path: Path) -> None:
    """Raise ValueError unless the file's name is one of moving pictures that Pillow writes."""
    from PIL import features

    if path.suffix.lower() not in (".webp", ".gif"):
        raise ValueError(f"--video is {path}; moving pictures are written as .webp or .gif")
    if path.suffix.lower() == ".webp" and not features.check("webp"):
        raise ValueError("this Pillow writes no .webp; give --video a file that ends in .gif")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--video is {path}; there is no folder {path.parent}: make it")


def save_walk(
    student: StudentModule,
    seeds: Sequence[int],
    frames: int,
    wishes: Wishes,
    labels: Sequence[int] | None,
    path: Path,
) -> None:
    """Write a loop through the seeds as moving pictures, 30 a second."""
    from PIL import Image

    import image_sets
    from checkpoints import replacing
    from students.styles import walk

    height, width = student.img_shape
    if len(seeds) * frames * height * width * 4 > MAX_LOOP_BYTES:
        raise ValueError(
            f"{len(seeds) * frames} images of {height} x {width} are more than a loop may hold; "
            "give fewer --seeds or --frames"
        )
    one = labels[0] if labels and len(labels) == 1 else labels
    images = walk(
        student,
        seeds,
        frames,
        truncation_psi=1.0 if wishes.trunc is None else wishes.trunc,
        label=one,
        noise_mode=wishes.noise_mode or "const",
    )
    pictures = [Image.fromarray(image_sets.image_grid(image[None], 1)) for image in images]
    kind = path.suffix[1:].upper()
    options = {"lossless": True} if kind == "WEBP" else {}
    with replacing(path) as file:
        pictures[0].save(
            file,
            format=kind,
            save_all=True,
            append_images=pictures[1:],
            duration=FRAME_MS,
            loop=0,
            **options,
        )


def make_images(
    network: str,
    seeds: Sequence[int],
    wishes: Wishes,
    labels: Sequence[int] | None,
    batch: int,
    device: str,
) -> Iterator[np.ndarray]:
    """Yield the images of the seeds, uint8 [c, h, w], by whatever the file holds.

    Raises:
        ValueError: an option that this kind of network does not have, or out of its range.
        OSError: the file cannot be read.
    """
    import checkpoints

    path = checkpoints.local(network)
    if path.is_dir():
        wishes.refuse(network, "a folder of diffusers", "trunc", "noise_mode")
        return of_denoiser(path, seeds, wishes, None, one_class(labels), batch, device)
    data = checkpoints.read(path)
    if not is_denoiser(data):
        wishes.refuse(network, "a generator", "steps", "init_sigma")
        return of_generator(path, network, seeds, wishes, labels, device)
    wishes.refuse(network, "a denoiser", "trunc", "noise_mode")
    recorded = data.get("init_sigma") if isinstance(data, Mapping) else None
    stepped = sampler_of(data, network)
    if stepped is not None and wishes.init_sigma is None:
        wishes.refuse(network, f"a student of {stepped[1]} steps", "steps")
        return of_stepped(path, *stepped, seeds, one_class(labels), batch, device)
    return of_denoiser(
        path, seeds, wishes, cast("float | None", recorded), one_class(labels), batch, device
    )


def one_class(labels: Sequence[int] | None) -> int | None:
    """Return the class of all images of a denoiser, or None."""
    if labels is not None and len(labels) > 1:
        raise ValueError("a denoiser makes images of one --class at a time")
    return labels[0] if labels else None


def sampler_of(data: Value, network: str) -> tuple[Progressive, int] | None:
    """Return how a file's student of several steps is drawn from; None of another file."""
    from refiners.progressive import sampler_in

    if not isinstance(data, Mapping):
        return None
    try:
        return sampler_in(cast("Mapping[str, object]", data))
    except ValueError as error:
        raise ValueError(f"{network}: its sampler cannot be: {error}") from None


def of_stepped(
    path: Path,
    method: Progressive,
    num_steps: int,
    seeds: Sequence[int],
    label: int | None,
    batch: int,
    device: str,
) -> Iterator[np.ndarray]:
    """Images of a distilled denoiser by its own sampler; what that draws is each seed's."""
    import teachers
    from refiners.progressive import sample_in_steps
    from teachers.sampler import inputs_of_seeds

    denoiser = teachers.load(path, device=device)
    for start in range(0, len(seeds), batch):
        latents, labels, streams = inputs_of_seeds(
            denoiser, seeds[start : start + batch], label=label
        )
        c = None if labels is None else labels.to(device)
        images = sample_in_steps(
            lambda x, sigma, c=c: denoiser(x, sigma, c),
            latents.to(device),
            method=method,
            num_steps=num_steps,
            noise_like=lambda x, s=streams: s.randn(x.shape[1:], dtype=x.dtype).to(x.device),
        )
        if not bool(images.isfinite().all()):
            raise ValueError(f"{path} makes images that are not finite")
        yield from (images.float().cpu() * 127.5 + 128).clamp(0, 255).byte().numpy()


def is_denoiser(data: Value) -> bool:
    """Whether a file's data hold a denoiser, by its names or the network's class."""
    import checkpoints
    import teachers
    from teachers import state_dicts

    if state_dicts.is_teacher(data):
        return True
    held = data if isinstance(data, Mapping) else {"ema": data}
    found = [held.get(key) for key in ("ema", "net")]
    records = [value for value in found if isinstance(value, checkpoints.Record)]
    return any(record.class_name in teachers.FAMILIES for record in records)


def of_generator(
    path: Path,
    name: str,
    seeds: Sequence[int],
    wishes: Wishes,
    labels: Sequence[int] | None,
    device: str,
) -> Iterator[np.ndarray]:
    """Images of a StyleGAN-family generator."""
    import image_sets
    import students

    student = students.load(path, device=device)
    if student.img_channels not in image_sets.SAVED:
        raise ValueError(
            f"{name} makes images of {student.img_channels} channels; pictures can be written of 1 "
            "(gray), 3 (RGB) or 4 (RGB and alpha)"
        )
    if not any(tensor.endswith("noise_strength") for tensor in student.state_dict()):
        wishes.refuse(name, "a generator without noise of its own", "noise_mode")
    return students.generate(
        student,
        seeds,
        truncation_psi=1.0 if wishes.trunc is None else wishes.trunc,
        label=labels[0] if labels and len(labels) == 1 else labels,
        noise_mode=wishes.noise_mode or "const",
    )


def of_denoiser(
    path: Path,
    seeds: Sequence[int],
    wishes: Wishes,
    recorded: float | None,
    label: int | None,
    batch: int,
    device: str,
) -> Iterator[np.ndarray]:
    """Images of a denoiser: by its sampler, or in one step from a recorded or given noise level."""
    import students
    import teachers
    from students.adapters.one_step import OneStep

    if recorded is not None or wishes.init_sigma is not None:
        wishes.refuse(str(path), "a one-step generator", "steps")
    denoiser = teachers.load(path, device=device)
    sigma = wishes.init_sigma if wishes.init_sigma is not None else recorded
    if sigma is not None:
        yield from students.generate(OneStep(denoiser, sigma_init=sigma), seeds, label=label)
        return
    batches = teachers.generate(
        denoiser, seeds, label=label, batch=batch, device=device, num_steps=wishes.steps or STEPS
    )
    for images in batches:
        if not bool(images.isfinite().all()):
            raise ValueError(f"{path} makes images that are not finite; try other --steps")
        yield from (images.float().cpu() * 127.5 + 128).clamp(0, 255).byte().numpy()
