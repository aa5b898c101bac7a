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

STEPS = 18  # of Heun's method, for CIFAR-10 (Karras et al. 2022, Table 1)


def parse_seeds(text: str) -> list[int]:
    """Turn "0-3,7" into [0, 1, 2, 3, 7]."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?", part)
        if match is None:
            raise ValueError(f"--seeds is {text!r}; allowed are numbers and ranges, as in 0-63,100")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= 1_000_000:
            raise ValueError(
                f"--seeds has the range {part!r}; it must rise, by less than a million"
            )
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
    metavar="INT",
    type=click.IntRange(min=0),
    help="Class of a conditional network; without it, each seed draws one.",
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
@click.option("--json", "as_json", is_flag=True, help="Print the files written as JSON.")
@device_option
def generate(
    network: str,
    seeds: str,
    outdir: Path,
    trunc: float | None,
    label: int | None,
    noise_mode: str | None,
    steps: int | None,
    init_sigma: float | None,
    grid: bool,
    batch: int,
    as_json: bool,
    device: str,
) -> None:
    """Write seedNNNN.png for each seed; an image depends on its seed alone."""
    import numpy as np

    import image_sets
    from roles.device import pick_device

    chosen = parse_seeds(seeds)
    wishes = Wishes(trunc, noise_mode, steps, init_sigma)
    images = make_images(network, chosen, wishes, label, batch, pick_device(device))
    kept, files = [], []
    for seed, image in zip(chosen, images, strict=True):
        outdir.mkdir(parents=True, exist_ok=True)  # not before an image shows that all is well
        files.append({"seed": seed, "file": str(outdir / f"seed{seed:04d}.png")})
        image_sets.save_png(files[-1]["file"], image_sets.image_grid(image[None], 1))
        if grid:
            kept.append(image)
    if grid:
        columns = max(1, round(len(kept) ** 0.5))
        image_sets.save_png(outdir / "grid.png", image_sets.image_grid(np.stack(kept), columns))
    if as_json:
        facts = {"network": network, "images": files}
        print(json.dumps(facts | ({"grid": str(outdir / "grid.png")} if grid else {}), indent=1))
    else:
        print(f"{len(chosen)} images in {outdir}")


def make_images(
    network: str, seeds: Sequence[int], wishes: Wishes, label: int | None, batch: int, device: str
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
        return of_denoiser(path, seeds, wishes, None, label, batch, device)
    data = checkpoints.read(path)
    if not is_denoiser(data):
        wishes.refuse(network, "a generator", "steps", "init_sigma")
        return of_generator(path, network, seeds, wishes, label, device)
    wishes.refuse(network, "a denoiser", "trunc", "noise_mode")
    recorded = data.get("init_sigma") if isinstance(data, Mapping) else None
    stepped = sampler_of(data, network)
    if stepped is not None and wishes.init_sigma is None:
        wishes.refuse(network, f"a student of {stepped[1]} steps", "steps")
        return of_stepped(path, *stepped, seeds, label, batch, device)
    return of_denoiser(path, seeds, wishes, cast("float | None", recorded), label, batch, device)


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
    path: Path, name: str, seeds: Sequence[int], wishes: Wishes, label: int | None, device: str
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
        label=label,
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
