"""Small JSON files beside networks: configurations, manifests, options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeAlias

MAX_BYTES = 2**20

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


def read_json(path: str | Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Json]:
    """Return the object that a JSON file holds.

    Raises:
        ValueError: it is larger than max_bytes, no JSON, or holds something else than an object.
        OSError: it cannot be read.
    """
    path = Path(path)
    if path.stat().st_size > max_bytes:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; at most {max_bytes} are read")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds no JSON object")
    return data
