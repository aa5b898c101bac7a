"""From the constructor call that a file records to the arguments of the network here.

Two programs write StyleGAN2 files, ADA's and the StyleGAN3 repository. They differ in how the call
is laid out and in the defaults of what it does not say (`options.DEFAULTS`).
"""

from __future__ import annotations

from collections.abc import Mapping

from checkpoints import Record, Value
from checkpoints.options import MAX_RESOLUTION, Options, Reader, read_options
from roles.shown import shown
from students.options import (
    DEFAULTS,
    DISCRIMINATOR,
    DISCRIMINATOR_BLOCK,
    DISCRIMINATOR_EPILOGUE,
    DISCRIMINATOR_MAPPING,
    DISCRIMINATOR_OPTIONS,
    GENERATOR,
    MAPPING,
    SQUARE,
    SYNTHESIS,
)


def is_generator(record: Record) -> bool:
    """Tell a StyleGAN2 generator by its class name and the 4 x 4 block of its synthesis."""
    return record.class_name == "Generator" and part(record, "synthesis", "b4") is not None


def generator_kwargs(record: Record) -> Options:
    """Return Generator's arguments for a file's generator, its writer's defaults filled in.

    The ADA program nests the synthesis options in synthesis_kwargs; the StyleGAN3 repository passes
    them flat.

    Raises:
        ValueError: a size is missing, an option is unknown or has a value that is not allowed.
    """
    call = constructor_call(record, GENERATOR)
    init_res = call.pop("init_res", None)
    sizes = read_options({name: call.pop(name) for name in GENERATOR}, GENERATOR, "")
    mapping = read_options(call.pop("mapping_kwargs", {}), MAPPING, "mapping_kwargs")
    nested = "synthesis_kwargs" in call
    if nested:
        synthesis = read_options(call.pop("synthesis_kwargs"), SYNTHESIS, "synthesis_kwargs")
        read_options(call, {}, "")
    else:
        synthesis = read_options(call, SYNTHESIS, "")
    defaults = DEFAULTS[writer_of(record)]
    # Modulation by the input or by the weights gives the same numbers, so this has no effect here.
    synthesis.pop("fused_modconv_default", None)
    return {
        **sizes,
        "init_res": first_size(init_res, sizes["img_resolution"]),
        "mapping_kwargs": {**defaults["mapping"], **mapping},
        "synthesis_kwargs": {**defaults["synthesis"], **synthesis},
    }


def is_discriminator(record: Record) -> bool:
    """Tell a StyleGAN2 discriminator by its class name and its 4 x 4 layers."""
    return record.class_name == "Discriminator" and part(record, "b4") is not None


def discriminator_kwargs(record: Record) -> Options:
    """Return Discriminator's arguments for a file's one, its writer's defaults filled in.

    Raises:
        ValueError: a size is missing, an option is unknown or has a value that is not allowed.
    """
    call = constructor_call(record, DISCRIMINATOR)
    init_res = call.pop("init_res", None)
    arguments = {
        **DEFAULTS[writer_of(record)]["discriminator"],
        **read_options(call, {**DISCRIMINATOR, **DISCRIMINATOR_OPTIONS}, ""),
    }
    arguments["init_res"] = first_size(init_res, arguments["img_resolution"])
    for name, table in (
        ("block_kwargs", DISCRIMINATOR_BLOCK),
        ("mapping_kwargs", DISCRIMINATOR_MAPPING),
        ("epilogue_kwargs", DISCRIMINATOR_EPILOGUE),
    ):
        arguments[name] = read_options(arguments.get(name, {}), table, name)
    return arguments


def first_size(init_res: object, img_resolution: object) -> tuple[int, int]:
    """Return the height and width that images grow from, of a call's init_res; None is 4 x 4.

    Forks for landscapes have it (eps696's stylegan2ada, dvschultz's stylegan2-ada-pytorch).

    Raises:
        ValueError: it is no pair of sides, or the images would be larger than any here.
    """
    if init_res is None:
        return SQUARE
    sides = list(init_res) if isinstance(init_res, (list, tuple)) else []
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(
            f"init_res is {shown(init_res)}; allowed are a height and a width, the size that its "
            "images grow from, as in [4, 6]"
        )
    largest = max(sides) * (img_resolution // 4 if isinstance(img_resolution, int) else 1)
    if largest > MAX_RESOLUTION:
        raise ValueError(
            f"init_res is {sides}, so its images have {largest} pixels on a side; {MAX_RESOLUTION} "
            "may be"
        )
    return sides[0], sides[1]


def writer_of(record: Record) -> str:
    """Return the key of DEFAULTS of the program that wrote a StyleGAN2 network's record."""
    if is_generator(record):
        block = part(record, "synthesis", "b4")
        remembers = block is not None and "fused_modconv_default" in block.state
        is_stylegan3 = remembers and "synthesis_kwargs" not in record.init_kwargs
    else:  # Only the layers of the StyleGAN3 repository remember their widths.
        out = part(record, "b4", "out")
        is_stylegan3 = out is not None and "in_features" in out.state
    return "stylegan3" if is_stylegan3 else "stylegan2-ada"


def constructor_call(record: Record, required: Mapping[str, Reader]) -> dict[str, Value]:
    """Return a recorded call's arguments by name; positional ones are the required, in order.

    Raises:
        ValueError: a required argument is missing, or there are more positional ones.
    """
    if len(record.init_args) > len(required):
        raise ValueError(
            f"its constructor call has {len(record.init_args)} positional arguments; "
            f"allowed are {', '.join(required)}"
        )
    call = {**dict(zip(required, record.init_args, strict=False)), **record.init_kwargs}
    missing = [name for name in required if name not in call]
    if missing:
        raise ValueError(f"its constructor call lacks {', '.join(missing)}")
    return call


def part(record: Record, *path: str) -> Record | None:
    """Return the module at this path inside another, or None."""
    found: Record | None = record
    for name in path:
        found = found.modules.get(name) if found else None
    return found
