"""`refine.py inspect`: what a network file holds."""

from __future__ import annotations

import json
from typing import Any

import click

from commands.provenance import sha256


@click.command()
@click.argument("source", metavar="PKL|URL")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def inspect(source: str, as_json: bool) -> None:
    """Show what a network file holds, without running anything in it."""
    import checkpoints

    data = checkpoints.read(source)
    networks = (
        {k: v for k, v in data.items() if isinstance(v, checkpoints.Record)}
        if isinstance(data, dict)
        else {}
    )
    if not networks:
        raise ValueError(f"{source} is a pickle without networks")
    described = {name: describe_network(record) for name, record in networks.items()}
    facts = {"file": source, "sha256": sha256(source), "keys": list(data), "networks": described}
    if as_json:
        print(json.dumps(facts, indent=2, default=str))
        return
    print(f"{source}\n  sha256 {facts['sha256']}\n  keys {', '.join(map(str, data))}")
    for name, network in described.items():
        print(
            f"{name}: {network['class']}, {network['parameters']:,} parameters "
            f"in {network['tensors']} tensors"
        )
        for key, value in network["init_kwargs"].items():
            print(f"  {key} = {value}")
        for tensor in network["nonfinite"]:
            print(f"  WARNING: {tensor} holds values that are not finite")


def describe_network(record: Any) -> dict[str, Any]:
    """Return a network's class, sizes and options as plain data."""
    import checkpoints

    parameters = checkpoints.parameters(record)
    return {
        "class": record.class_name,
        "parameters": sum(tensor.numel() for tensor in parameters.values()),
        "tensors": len(checkpoints.tensors(record)),
        "init_kwargs": dict(record.init_kwargs or {}),
        "nonfinite": list(checkpoints.nonfinite(record)),
    }
