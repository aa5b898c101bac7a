"""`refine.py inspect`: what a network file holds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from refiners.runs.provenance import sha256

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch

    from checkpoints import Json, Value
    from refine_commands.network_facts import Layer, Network

STATE_KEYS = ("g_ema", "g", "d")  # rosinality's names, shown as G_ema, G and D


@dataclasses.dataclass(frozen=True)
class Facts:
    """What `inspect --json` prints, in its order."""

    file: str
    bytes: int
    sha256: str
    main: str
    kind: str
    writer: str
    networks: dict[str, Network]
    others: dict[str, Json]
    globals: list[str]


@click.command()
@click.argument("source", metavar="PKL|URL|NAME")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def inspect(source: str, as_json: bool) -> None:
    """Show what a network file holds, without running anything in it or building a network.

    Also of torch files (.pt), of safetensors, and of folders that diffusers wrote.
    """
    facts = facts_of(source)
    if as_json:
        print(json.dumps(dataclasses.asdict(facts), indent=1))
    else:
        print("\n".join(lines_of(facts)))


def facts_of(source: str) -> Facts:
    """Read what a file or folder holds.

    Raises:
        ValueError: a file that cannot be read, or that holds no tensors.
        OSError: the file is not there.
    """
    import checkpoints
    from refine_commands import network_facts
    from roles.shown import shown

    path = checkpoints.local(source)
    if path.is_dir():
        return _facts_of_folder(path)
    if path.suffix == ".safetensors" and not _is_ours(path):
        data: Value = _safetensors(path)
        names: list[str] = []
    else:
        data, names = checkpoints.read_with_names(path)
    networks = network_facts.networks_of(data)
    if not networks:
        parts = data.values() if isinstance(data, dict) else [data]
        foreign = [part for part in parts if isinstance(part, checkpoints.Record) and part.foreign]
        if foreign:
            checkpoints.check_clean(foreign[0], source, "object")
        keys = f" (its keys: {_few(data)})" if isinstance(data, dict) and data else ""
        raise ValueError(
            f"{source} holds no network{keys}; a StyleGAN pickle has G, D and G_ema, a "
            "denoiser's ema"
        )
    rest = data if isinstance(data, dict) and not checkpoints.is_state_dict(data) else {}
    taken = {*networks, *STATE_KEYS}
    others = {
        shown(str(key), quoted=False): _brief(value)
        for key, value in rest.items()
        if key not in taken
    }
    return _facts(source, path, networks, others, [shown(name, quoted=False) for name in names])


def _facts(
    source: str,
    path: Path,
    networks: dict[str, Network],
    others: dict[str, Json],
    names: list[str],
) -> Facts:
    from refine_commands.network_facts import main_network

    main = main_network(list(networks))
    kind, writer = networks[main].kind, networks[main].writer
    digest = sha256(path)
    size = path.stat().st_size
    return Facts(source, size, digest, main, kind, writer, networks, others, names)


def _is_ours(path: Path) -> bool:
    return path.with_name("config.json").is_file()


def _safetensors(path: Path) -> dict[str, Value]:
    import safetensors.torch
    from safetensors import SafetensorError

    try:
        return {**safetensors.torch.load_file(path)}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file ({error})") from error


def _few(data: Iterable[object]) -> str:
    return ", ".join(str(key)[:40].encode("ascii", "replace").decode() for key in list(data)[:8])


def _brief(value: Value) -> Json:
    """An entry beside the networks: plain values as they are, objects by their class."""
    from checkpoints import Record
    from refine_commands.network_facts import plain

    if isinstance(value, Record) and not value.foreign:
        return f"{value.class_name} {plain(value.init_kwargs) or ''}".strip()
    return plain(value)


def _facts_of_folder(folder: Path) -> Facts:
    """A folder of diffusers: its configuration, and its weights' names and shapes."""
    import checkpoints
    from refine_commands import network_facts
    from teachers import diffusers

    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    weights, *parts = diffusers.weight_files(unet)
    state: dict[str, torch.Tensor] = {}
    for path in (weights, *parts):
        held = _safetensors(path) if path.suffix == ".safetensors" else checkpoints.read(path)
        if not checkpoints.is_state_dict(held):
            raise ValueError(f"{path} holds no tensors by name")
        state |= held
    config = checkpoints.read_json(unet / "config.json")
    places = (folder / "scheduler", folder)  # as today, and as in 2022
    paths = (place / "scheduler_config.json" for place in places)
    network = network_facts.of_diffusers(state, config)
    others: dict[str, Json] = {}
    if scheduler := next((path for path in paths if path.is_file()), None):
        others["scheduler"] = network_facts.plain(checkpoints.read_json(scheduler))
    return _facts(str(folder), weights, {"unet": network}, others, [])


def lines_of(facts: Facts) -> list[str]:
    """The facts as text: the file, its networks, then the main one's options and layers."""
    main = facts.networks[facts.main]
    lines = [
        facts.file,
        f"  kind      {facts.kind}, written by {facts.writer}",
        f"  sizes     {_sizes(main.sizes)}",
        f"  bytes     {facts.bytes:,}",
        f"  sha256    {facts.sha256}",
    ]
    for name, network in facts.networks.items():
        lines.append(
            f"  network   {name or '(the file)'}: {network.kind}, class {network.class_name}"
            f", {network.parameters:,} parameters, {network.tensors} tensors of "
            f"{', '.join(network.dtypes)}"
        )
    for name, value in facts.others.items():
        lines.append(f"  also      {name}: {_text(value)}")
    if facts.globals:
        lines.append(f"  globals   {', '.join(facts.globals)}")
    title = facts.main or "the network"
    if main.options:
        lines += [f"options of {title}", *_option_lines(main.options, "  ")]
    lines.append(f"layers of {title}")
    lines += _layer_lines(main.layers)
    for name, network in facts.networks.items():
        lines += [f"WARNING: {name} {bad} is not finite" for bad in network.nonfinite]
    return lines


def _sizes(sizes: dict[str, int]) -> str:
    r, channels = sizes.get("img_resolution"), sizes.get("img_channels")
    classes = sizes.get("c_dim", sizes.get("label_dim"))
    parts = [
        f"{sizes.get('img_height', r)} x {sizes.get('img_width', r)}" if r else "",
        f"{channels} channels" if channels else "",
        *(f"{name[0]} {sizes[name]}" for name in ("z_dim", "w_dim") if name in sizes),
        f"{sizes['num_ws']} ws" if "num_ws" in sizes else "",
        "" if classes is None else f"{classes} classes" if classes else "unconditional",
    ]
    return ", ".join(part for part in parts if part) or "not recorded"


def _text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _option_lines(options: Mapping[str, Json], indent: str) -> list[str]:
    lines = []
    for name, value in options.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}", *_option_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name} = {_text(value)}")
    return lines


def _layer_lines(layers: Sequence[Layer]) -> list[str]:
    rows = [
        (layer.name, layer.class_name, "x".join(map(str, layer.shape)) or "1") for layer in layers
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        + f"  {layer.parameters:>11,}"
        for row, layer in zip(rows, layers, strict=True)
    ]
