"""A hash of what a data set holds, whatever it is called and wherever it lies."""

from __future__ import annotations

import hashlib
import os

from image_sets.stylegan import ImageFiles


def fingerprint(path: str | os.PathLike[str]) -> str:
    """SHA-256 over names and bytes of the images and of dataset.json, in the layout's order.

    A folder and a zip of it have the same one. Everything is read once. ValueError or OSError as
    `ImageFolder` raises them.
    """
    files = ImageFiles(path)
    digest = hashlib.sha256()
    try:
        for name in [*files.names, *([files.labels_file] if files.labels_file else [])]:
            content = hashlib.sha256(files.read(name)).hexdigest()
            digest.update(f"{len(name)} {name} {content}\n".encode())
    finally:
        files.close()
    return digest.hexdigest()
