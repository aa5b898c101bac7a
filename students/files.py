"""Students in network files: recognised, built from the recorded call, filled by name, written.

Nothing in a file runs; `checkpoints` reads it as plain data. LAYOUTS is the table of how files hold
networks, FAMILIES that of the networks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, cast, overload

import torch

import checkpoints
from checkpoints import Record, Value
from roles import Network
from roles.shown import shown
from students import originals
from students.base import StudentModule
from students.fastgan import calls as fastgan_calls
from students.fastgan import generator as fastgan
from students.foreign import fastgan as fastgan_files
from students.foreign import rosinality, state_dicts, tensorflow
from students.r3gan import calls as r3gan_calls
from students.r3gan import generator as r3gan
from students.stylegan2 import calls
from students.stylegan2.discriminator import Discriminator
from students.stylegan2.generator import Generator
from students.stylegan3 import calls as stylegan3_calls
from students.stylegan3 import generator as stylegan3
from students.stylegan_xl import generator as stylegan_xl


class Layout(NamedTuple):
    """A way in which programs lay out networks in a file.

    Attributes:
        matches: whether a file's data are in this layout.
        names: the networks that the data hold.
        record: the record of one of them.
        replace: writes the data to a path with another record in the place of one.
    """

    matches: Callable[[Value], bool]
    names: Callable[[Value], Sequence[str]]
    record: Callable[[Value, str], Record]
    replace: Callable[[Value, str, Record, str | Path], None]


def _records(data: Value) -> dict[str, Record]:
    held = data.items() if isinstance(data, dict) else ()
    return {str(key): value for key, value in held if isinstance(value, Record)}


def _clean(data: Value) -> list[str]:
    return [name for name, record in _records(data).items() if not record.foreign]


def _replace(data: Value, network: str, changed: Record, path: str | Path) -> None:
    assert isinstance(data, dict)
    new = data.copy()
    new[network] = changed
    checkpoints.write(new, path)


def _row(data: Value) -> dict[str, Record]:
    """The networks of a list [G, D, G_ema], some None, as their programs passed them about."""
    row = data if isinstance(data, (list, tuple)) and len(data) == len(tensorflow.NETWORKS) else ()
    if not all(part is None or isinstance(part, Record) for part in row):
        return {}
    named = zip(tensorflow.NETWORKS, row, strict=False)
    return {name: part for name, part in named if isinstance(part, Record)}


def _replace_in_row(data: Value, network: str, changed: Record, path: str | Path) -> None:
    assert isinstance(data, (list, tuple))
    at = tensorflow.NETWORKS.index(network)
    checkpoints.write(type(data)([*data[:at], changed, *data[at + 1 :]]), path)


# The last one, a dict of records, is that of all programs since 2020.
LAYOUTS = (
    *(
        Layout(module.matches, module.names, module.record, module.replace)
        for module in (tensorflow, rosinality, fastgan_files)
    ),
    Layout(
        lambda data: isinstance(data, Record),
        lambda data: ["G_ema"],
        lambda data, network: cast("Record", data),
        lambda data, network, changed, path: checkpoints.write(changed, path),
    ),
    Layout(
        lambda data: bool(_row(data)),
        lambda data: list(_row(data)),
        lambda data, network: _row(data)[network],
        _replace_in_row,
    ),
    Layout(state_dicts.matches, state_dicts.names, state_dicts.record, state_dicts.replace),
    Layout(
        lambda data: True,
        _clean,
        lambda data, network: _records(data)[network],
        _replace,
    ),
)


def layout_of(data: Value) -> Layout:
    """Return the layout of a file's data."""
    return next(layout for layout in LAYOUTS if layout.matches(data))


class Family(NamedTuple):
    """A kind of network: how to recognise its record, and what its class is called with."""

    name: str
    matches: Callable[[Record], bool]
    options: Callable[[Record], Mapping[str, object]]
    network: Callable[..., StudentModule | Discriminator]

    def build(self, record: Record) -> StudentModule | Discriminator:
        """Make the network of a record, with new weights."""
        return self.network(**self.options(record))


FAMILIES = (
    Family(
        "StyleGAN2 generator",
        calls.is_generator,
        calls.generator_kwargs,
        Generator,
    ),
    Family(
        "StyleGAN2 discriminator",
        calls.is_discriminator,
        calls.discriminator_kwargs,
        Discriminator,
    ),
    Family(
        "R3GAN generator",
        r3gan_calls.is_generator,
        r3gan_calls.generator_kwargs,
        r3gan.R3Generator,
    ),
    Family(
        "FastGAN generator",
        fastgan_calls.is_generator,
        fastgan_calls.generator_kwargs,
        fastgan.FastGANGenerator,
    ),
    Family(
        "StyleGAN3 generator",
        stylegan3_calls.is_stylegan3,
        stylegan3_calls.stylegan3_kwargs,
        stylegan3.Generator,
    ),
    Family(
        "StyleGAN-XL stem",
        stylegan3_calls.is_stem,
        stylegan3_calls.stem_kwargs,
        stylegan_xl.Generator,
    ),
    Family(
        "StyleGAN-XL superresolution generator",
        stylegan3_calls.is_superres,
        stylegan3_calls.superres_kwargs,
        stylegan_xl.SuperresGenerator,
    ),
)


def family_of(record: Record) -> Family:
    """Return the family of a network's record.

    Raises:
        ValueError: no family matches; the message names the class and its parts.
    """
    for family in FAMILIES:
        if family.matches(record):
            return family
    parts = ascii(", ".join(list(record.modules)[:5])[:100])
    known = ", ".join(family.name for family in FAMILIES)
    raise ValueError(
        f"a network of class {record.class_name[:100]!a} with the parts {parts} cannot be "
        f"loaded; known: {known}"
    )


@overload
def load(
    path_or_url: str | Path,
    *,
    network: Literal["G_ema", "G"] = "G_ema",
    device: torch.device | str = "cpu",
    like: str | Path | None = None,
) -> StudentModule: ...
@overload
def load(
    path_or_url: str | Path,
    *,
    network: Literal["D"],
    device: torch.device | str = "cpu",
    like: str | Path | None = None,
) -> Discriminator: ...
@overload
def load(
    path_or_url: str | Path,
    *,
    network: str,
    device: torch.device | str = "cpu",
    like: str | Path | None = None,
) -> StudentModule | Discriminator: ...
def load(
    path_or_url: str | Path,
    *,
    network: str = "G_ema",
    device: torch.device | str = "cpu",
    like: str | Path | None = None,
) -> StudentModule | Discriminator:
    """Load a generator (or with network="D" a discriminator) from a network file.

    Args:
        path_or_url: a StyleGAN pickle, or its http(s) address; nothing in it runs.
        network: which of the file's networks: "G_ema", "G" or "D".
        device: where the parameters go.
        like: a file whose network has the class and options of this one, of which there are only
            tensors by name.

    Returns:
        The network in eval mode without gradients. Its parameters are the file's, in float32.

    Raises:
        ValueError: no such network, an unknown class or option, tensors that do not fit or are not
            finite; checkpoints.UnsafeCheckpoint where the file asks for what no network needs.
        OSError: the file cannot be read.
    """
    data = checkpoints.read(path_or_url)
    if like is None:
        record = find_network(data, network, path_or_url)
    else:
        known = find_network(checkpoints.read(like), network, like)
        try:
            record = state_dicts.fitted(data, known)
        except ValueError as error:
            raise ValueError(f"{path_or_url}: {error}; those of {like} were asked for") from error
    try:
        module = build(record)
    except ValueError as error:
        raise ValueError(f"{path_or_url}: network {network}: {error}") from error
    return module.to(device)


def networks(data: Value) -> dict[str, Callable[[], Record]]:
    """For each network in a file's data, its name and what gives its record; {} where are none.

    Networks in the layouts of other programs are converted when they are asked for.
    """
    layout = layout_of(data)
    return {name: partial(layout.record, data, name) for name in layout.names(data)}


def find_network(data: Value, network: str, source: str | Path) -> Record:
    """Return one network's record among a file's data.

    Raises:
        ValueError: the data hold no such network; the message says what they hold. Or a network of
            another layout cannot be converted.
    """
    for found in (data, _records(data).get(network), _row(data).get(network)):
        if isinstance(found, Record):
            checkpoints.check_clean(found, source, "object" if found is data else network)
    held = networks(data)
    if network in held:
        try:
            return held[network]()
        except ValueError as error:
            raise ValueError(f"{source}: network {network}: {error}") from error
    if "ema" in held:
        kind = held["ema"]().class_name
        raise ValueError(f"{source} holds {kind}, a denoiser, and no {network}: it is a teacher")
    if held:
        raise ValueError(f"{source} has no network {network}; it has {', '.join(held)}")
    for key, value in data.items() if isinstance(data, dict) else ():
        if checkpoints.is_state_dict(value):
            raise ValueError(f"{source} {_tensors_alone(str(key), value)}")
    if checkpoints.is_state_dict(data):
        raise ValueError(f"{source} {_tensors_alone('', data)}")
    raise ValueError(
        f"{source} holds no network; a StyleGAN pickle is a dict with the networks G, D, G_ema"
    )


PREFIX = re.compile(r"((?:module|decoder|generator)\.)*")  # of wrapped networks


def _tensors_alone(key: str, state: Mapping[str, torch.Tensor]) -> str:
    """What to say of tensors by name without the options that make a network of them."""
    names = [PREFIX.sub("", name, count=1) for name in state]
    marks = {"synthesis.b4.": "StyleGAN2", "synthesis.L0_": "StyleGAN3"}
    kinds = [kind for mark, kind in marks.items() if any(n.startswith(mark) for n in names)]
    prefix = next(iter(state))[: len(next(iter(state))) - len(names[0])]
    about = [f"of a {kinds[0]} generator"] if kinds else []
    about += [f"with {shown(prefix)} before their names"] if prefix else []
    under = f" under {shown(key, quoted=False)}" if key else ""
    return (
        f"holds no network but {', '.join([f'{len(state)} tensors by name{under}', *about])}; what "
        "is missing is the call that made the network (its sizes and options): give the pickle "
        "that the training wrote, which holds the network G_ema itself, or take the call from "
        "another file of such a network (refine.py export FILE --like PICKLE --out NEW.pkl)"
    )


def build(record: Record) -> StudentModule | Discriminator:
    """Build a network and give it its record's tensors; names and shapes must agree exactly.

    Raises:
        ValueError: an unknown class or option, tensors that are missing, unknown, of another shape
            or not finite.
    """
    family = family_of(record)
    complaint = f"the {family.name}'s tensors do not fit its options"
    tensors = checkpoints.tensors(record)
    module = checkpoints.filled(lambda: family.build(record), tensors, complaint)
    _keep_frozen(module, checkpoints.buffers(record))
    return module


def _keep_frozen(module: torch.nn.Module, names: Container[str]) -> None:
    """Make buffers of the parameters with these names: layers that do not learn (Freeze-D)."""
    for name, value in list(module.named_parameters()):
        if name in names:
            path, _, own = name.rpartition(".")
            layer = module.get_submodule(path)
            delattr(layer, own)
            layer.register_buffer(own, value.detach())


def save(student: Network, path: str | Path, *, like: str | Path, network: str = "G_ema") -> None:
    """Write the file `like` with the student's weights in one of its networks.

    The new file has the layout of `like`, whatever its name ends with: a pickle stays a pickle and
    rosinality's `.pt` one of those. A TensorFlow pickle, which loads nowhere any more, becomes the
    pickle of PyTorch's StyleGAN2 with all its networks; safetensors become one as of `save_for`.

    Args:
        student: a network of the architecture of that one in `like`; it is not changed.
        path: the file to write, as a whole or not at all.
        like: the file that the student came from; its other networks, options and embedded source
            pass through.
        network: which of its networks gets the weights.

    Raises:
        ValueError: the student's tensors do not fit, or are not finite; `path` is left as it was.
        OSError: a file cannot be read or written.
    """
    data = checkpoints.read(like)
    record = find_network(data, network, like)
    weights = student.state_dict()
    checkpoints.check_fit(
        weights, checkpoints.tensors(record), f"the student does not fit {network} of {like}"
    )
    checkpoints.check_finite(weights)
    changed = checkpoints.with_tensors(record, weights)
    # Safetensors hold one network without any text, of which a program cannot make an object.
    if Path(like).suffix == ".safetensors" and originals.program_of(build(changed)):
        _write_named({network: changed}, None, like, path)
    else:
        layout_of(data).replace(data, network, changed, path)


def save_for(program: str, source: str | Path, path: str | Path) -> list[str]:
    """Write the networks of a file as a pickle that loads in a program's checkout, without ours.

    Args:
        program: a key of students.originals.PROGRAMS, whose classes the pickle names.
        source: a file that `load` reads.
        path: the file to write, as a whole or not at all.

    Returns:
        Those of the networks G, D and G_ema that the source lacks. The programs ask for all three:
        a generator is then the other one, and the discriminator a module that does nothing.

    Raises:
        ValueError: the program has no such networks, or the source has none.
        OSError: a file cannot be read or written.
    """
    data = checkpoints.read(source)
    held = networks(data)
    if not held.keys() & {"G", "G_ema"}:
        find_network(data, "G_ema", source)  # which says what there is instead
    records = {
        name: find_network(data, name, source) for name in tensorflow.NETWORKS if name in held
    }
    about = data.get("training_set_kwargs") if isinstance(data, Mapping) else None
    return _write_named(records, program, source, path, about=about)


def _write_named(
    records: Mapping[str, Record],
    program: str | None,
    source: str | Path,
    path: str | Path,
    *,
    about: checkpoints.Value = None,
) -> list[str]:
    """Write these networks of source as save_for does; about is what the file tells of its data."""
    named = {}
    for name, record in records.items():
        if record.class_name == "Identity":  # written here in the place of a discriminator
            continue
        try:
            named[name] = originals.describe(build(record), program)
        except ValueError as error:
            raise ValueError(f"{source}: network {name}: {error}") from error
    missing = [name for name in tensorflow.NETWORKS if name not in named]
    other = {name: named.get("G_ema", named.get("G")) for name in ("G", "G_ema")}
    other["D"] = checkpoints.describe(torch.nn.Identity().eval())
    complete = {name: named.get(name, other[name]) for name in tensorflow.NETWORKS}
    checkpoints.write({"training_set_kwargs": about, **complete, "augment_pipe": None}, path)
    return missing
