"""Where what a user names is kept: a path, an address, a published name, an id of the Hub."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from pathlib import Path

from checkpoints.web.cache import fetch, is_url
from checkpoints.web.hub import is_hub_id, local_model
from checkpoints.web.published import ADDRESSES


def local(place: str | Path) -> Path:
    """Path of a file given by its path, its address, or the name of a published network.

    What has that path comes before a published network of that name, and a line says so. An id of
    the Hugging Face Hub (see hub) is the folder of that model.

    Raises:
        ValueError, OSError: as `fetch`; for a published name that is not kept here and cannot be
            fetched, the line names both the name and the address. There is no such file, and no
            published network has this name.
    """
    if is_hub_id(place):
        return local_model(str(place))
    if is_url(place):
        return fetch(str(place))
    path = Path(place)
    if path.exists():
        if isinstance(place, str) and place in ADDRESSES:
            kind = "folder" if path.is_dir() else "file"
            print(
                f"{place}: taking the {kind} of this name in the current folder, not the published "
                f"network; {ADDRESSES[place]} is that one's address",
                file=sys.stderr,
            )
        return path
    if isinstance(place, Path) or place not in ADDRESSES:
        near = get_close_matches(str(place), ADDRESSES, n=3)
        hint = f"; published networks of similar names: {', '.join(near)}" if near else ""
        raise FileNotFoundError(f"{place} does not exist{hint}")
    try:
        return fetch(ADDRESSES[place])
    except OSError as error:
        raise OSError(f"the published network {place} is not kept here: {error}") from error


def local_data(place: str | Path) -> Path:
    """Path of data given by its path or address; no published network's name is tried.

    ValueError or OSError as `fetch` raises them; whether a path exists is for its reader to say.
    """
    return fetch(str(place)) if is_url(place) else Path(place)
