"""What a run is made of: the networks and images behind it, and the options that move its numbers.

A run continues to the numbers of an undisturbed one only where all of this is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import image_sets
import metrics
from refiners.runs.provenance import sha256
from roles import Network
from roles.digest import digest_of

MadeOf = Mapping[str, object]
SHOWN = 12  # digits of a hash, in messages


def made_of(
    networks: Mapping[str, Network],
    options: MadeOf,
    *,
    reference: metrics.Reference | None,
    data: str | None,
    files: Mapping[str, str | None],
) -> dict[str, object]:
    """Return the parts of a run by name: SHA-256 of what is in files, and options as they are.

    Args:
        networks: by role, as they were read.
        options: of the run, plain values.
        reference: that the report measures against.
        data: the real images, whose names and bytes count.
        files: what else is named by options, a file or a word.
    """
    return {
        **{f"{role}_sha256": digest_of(network) for role, network in networks.items()},
        "reference_sha256": reference and _reference(reference),
        "features": reference and reference.space,
        "data_sha256": image_sets.fingerprint(data) if data else None,
        **{name: _content(value) for name, value in files.items()},
        **options,
    }


def check_made_of(theirs: object, mine: MadeOf, where: str) -> None:
    """Raise ValueError in one line that names what differs from what is continued.

    Args:
        theirs: as a file has it.
        mine: of the run that wants to continue.
        where: what has the former, for the message.
    """
    if not mine:
        return
    if not isinstance(theirs, Mapping):
        raise ValueError(
            f"{where} does not say what its run is made of, as this version asks for; start anew, "
            "from its networks by --transfer"
        )
    drift = [
        f"{name} {_shown(name, theirs.get(name))} -> {_shown(name, value)}"
        for name, value in mine.items()
        if type(theirs.get(name)) is not type(value) or theirs.get(name) != value
    ]
    if drift:
        raise ValueError(
            f"{where} is of a run with other input ({', '.join(drift)}); give what that run had, or"
            " start anew, by --transfer from its networks"
        )


def _reference(reference: metrics.Reference) -> str:
    """Return the SHA-256 of the images of a reference, or else of its statistics.

    Statistics of images are not the same on every machine, to the last bit.
    """
    source = Path(reference.source)
    if source.is_dir() or source.suffix == ".zip":
        return image_sets.fingerprint(source)
    return reference.sha256


def _content(value: str | None) -> str | None:
    """Return the SHA-256 of a file that an option names, or the option's own word."""
    if value is None or not _is_source(value):
        return value
    return sha256(value)


def _is_source(value: str) -> bool:
    return value.startswith(("http://", "https://")) or Path(value).exists()


def _shown(name: str, value: object) -> str:
    text = "none" if value is None else str(value)
    return text[:SHOWN] if name.endswith("_sha256") else text[:80]
