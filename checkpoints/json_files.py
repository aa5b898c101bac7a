"""Small JSON files beside networks: configurations, manifests, options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeAlias

from roles.budget import check_json, file_size

MAX_BYTES = 2**20

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


def read_json(path: str | Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Json]:
    """Return the object that a JSON file holds.

    Raises:
        ValueError: it is larger than max_bytes, no JSON, or holds something else than an object.
        OSError: it cannot be read.
    """
    path = Path(path)
    size = file_size(path)
    if size > max_bytes:
        raise ValueError(f"{path} has {size} bytes; at most {max_bytes} are read")
    text = path.read_bytes()
    check_json(text, str(path))
    try:
        data = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds no JSON object")
    return data
