"""Files from the web, kept in a folder of our own with their SHA-256.

The folder is $REFINE_CACHE_DIR, else $XDG_CACHE_HOME/refine-gan, else ~/.cache/refine-gan. Each
file has its SHA-256 beside it, recorded when it was complete and compared on every use. A transfer
that broke off goes on where it stopped if the server still has the same file.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import requests
from tqdm import tqdm

from checkpoints.atomic import replacing
from checkpoints.web.published import SHA256

try:
    import fcntl
except ImportError:  # Windows: two processes that fetch the same file at once are not kept apart
    fcntl = None

MAX_BYTES = 16 * 2**30
CHUNK = 2**16  # what a broken transfer loses at most
TIMEOUT = (20, 60)  # seconds to connect, and between two packets


def is_url(place: str | Path) -> bool:
    """Whether this is an address, not a path; ValueError if it is neither http nor https."""
    scheme, separator, _ = str(place).partition("://")
    if not separator or isinstance(place, Path):
        return False
    if scheme.lower() not in ("http", "https"):
        raise ValueError(
            f"{place} cannot be fetched; give an http:// or https:// address, or a path"
        )
    return True


def fetch(url: str, *, cache_dir: str | Path | None = None, max_bytes: int = MAX_BYTES) -> Path:
    """Path of the local copy of a file on the web; it is fetched if there is none.

    Raises:
        ValueError: not an http(s) address, the file is too large, has another SHA-256 than is known
            of this address, or the copy no longer has its own.
        OSError: the server cannot be reached or sends no file; what arrived is kept and completed
            next time.
    """
    if not is_url(url):
        raise ValueError(f"{url} is not an address; give http://... or https://...")
    folder = Path(cache_dir) if cache_dir else default_folder()
    path = folder / local_name(url)
    fetch_to(path, url, expected=SHA256.get(url), max_bytes=max_bytes)
    return path


def fetch_to(
    path: Path, url: str, *, expected: str | None = None, max_bytes: int = MAX_BYTES
) -> None:
    """Make a path the local copy of a file on the web; what is there is checked and stays.

    Args:
        path: where the copy is kept, with its SHA-256 beside it.
        url: http(s) address.
        expected: SHA-256 of the file; None takes what comes.
        max_bytes: that are fetched at most.

    Raises:
        ValueError, OSError: as fetch.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with _alone(path.with_name(path.name + ".lock")):
        if path.exists():
            _check_digest(path, expected)
            return
        try:
            _download(url, partial, max_bytes)
        except requests.RequestException as error:
            raise OSError(
                f"{url} cannot be fetched ({_reason(error)}); try again to go on from what "
                "arrived, or fetch the file by other means and give its path"
            ) from error
        found = sha256(partial)
        if expected is not None and found != expected:
            _state_of(partial).unlink(missing_ok=True)
            partial.unlink()
            raise ValueError(
                f"{url} has SHA-256 {found}, where {expected} is known of it; nothing of it was "
                "kept; give a file that you trust by its path"
            )
        _record_digest(path, found)
        os.replace(partial, path)
        _state_of(partial).unlink(missing_ok=True)


def default_folder() -> Path:
    """Where files from the web are kept."""
    own = os.environ.get("REFINE_CACHE_DIR")
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(shared) / "refine-gan"


def local_name(url: str) -> str:
    """A file name that differs for different addresses and still shows the file's own name."""
    name = unquote(PurePosixPath(urlsplit(url).path).name)
    shown = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)[-80:]
    return f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{shown.lstrip('.')}"


def sha256(path: Path) -> str:
    """SHA-256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _digest_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _state_of(partial: Path) -> Path:
    return partial.with_name(partial.name + ".etag")


def _record_digest(path: Path, digest: str) -> None:
    with replacing(_digest_of(path)) as file:
        file.write(f"{digest}  {path.name}\n".encode())


def _check_digest(path: Path, known: str | None) -> None:
    if not _digest_of(path).exists():
        raise ValueError(
            f"{path} has no recorded SHA-256 beside it; remove it and it is fetched again"
        )
    expected = _digest_of(path).read_text().partition(" ")[0]
    found = sha256(path)
    if found != expected:
        raise ValueError(
            f"{path} has SHA-256 {found} but was recorded with {expected}; "
            "remove it and it is fetched again"
        )
    if known is not None and found != known:
        raise ValueError(
            f"{path} has SHA-256 {found}, where {known} is known of its address; remove it and it "
            "is fetched again"
        )
    if complaint := _no_file(path):  # one that a version before this kept
        raise ValueError(f"{path} is no file: {complaint}; remove it and it is fetched again")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Keep other processes from fetching the same file at the same time."""
    with open(lock, "wb") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(url: str, partial: Path, max_bytes: int) -> None:
    """Fetch into the partial file, after what it holds if the server's file is unchanged."""
    tag = _state_of(partial).read_text() if _state_of(partial).exists() else ""
    have = partial.stat().st_size if tag and partial.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        resumed = response.status_code == 206
        validator = response.headers.get("ETag", "")
        # Nothing follows what is here, or it is of another file: start again.
        if have and (response.status_code == 416 or (resumed and validator != tag)):
            _state_of(partial).unlink()
            return _download(url, partial, max_bytes)
        response.raise_for_status()
        have = have if resumed else 0
        total = _announced(response, have)
        _check_room(url, partial.parent, have, total, max_bytes)
        if not resumed:
            _begin(partial, validator)
        with open(partial, "ab") as file:
            received = _receive(response, file, have, total, url, max_bytes)
    if total is not None and received != total:
        raise requests.RequestException(f"{received} of {total} bytes arrived")
    if complaint := _no_file(partial):
        _state_of(partial).unlink(missing_ok=True)
        partial.unlink()
        raise requests.RequestException(complaint)
    return None


def _begin(partial: Path, validator: str) -> None:
    """Empty the partial file and record of which file its bytes will be.

    At every moment between, the record is of the bytes that are there, or there is none.
    """
    _state_of(partial).unlink(missing_ok=True)
    with replacing(partial):
        pass
    # A strong validator is needed to join two parts (RFC 9110, 13.1.5).
    if validator and not validator.startswith("W/"):
        with replacing(_state_of(partial)) as file:
            file.write(validator.encode())


def _announced(response: requests.Response, have: int) -> int | None:
    """Size of the whole file, None where the transfer itself marks its end (chunks).

    Raises:
        RequestException: the answer is not the file from byte `have` on, or does not say where it
            ends, so that a cut copy would pass for a whole one.
    """
    headers = response.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        raise requests.RequestException("the server sent the file compressed")
    length = headers.get("Content-Length")
    if length is not None and not re.fullmatch(r"[0-9]{1,18}", length):
        raise requests.RequestException(
            f"the server announces {length[:40]!r} for a number of bytes"
        )
    chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
    if length is None and not chunked:
        raise requests.RequestException("the server does not say how long the file is")
    if response.status_code != 206:
        return None if length is None or chunked else int(length)
    part = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", _range(response))
    if not have or part is None or int(part[1]) != have:
        raise requests.RequestException("the server sent another part than was asked for")
    total = int(part[2]) + 1
    if part[3] not in ("*", str(total)) or (length is not None and int(length) != total - have):
        raise requests.RequestException("the server's sizes of the part contradict each other")
    return total


def _range(response: requests.Response) -> str:
    return response.headers.get("Content-Range", "")


def _no_file(path: Path) -> str | None:
    """What is wrong with an answer that is no file, None if it may be one.

    No format that is read here begins with "<".
    """
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        return "the server sent an empty file"
    if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<"):
        return "the server sent a web page, not a file; open the address in a browser to see why"
    return None


def _check_room(url: str, folder: Path, have: int, total: int | None, max_bytes: int) -> None:
    if total is None:
        return
    if total > max_bytes:
        raise ValueError(f"{url} has {total} bytes; at most {max_bytes} are fetched")
    free = shutil.disk_usage(folder).free
    if total - have > free:
        raise OSError(
            f"{url} needs {total - have} bytes, {folder} has {free} free; see REFINE_CACHE_DIR"
        )


def _receive(
    response: requests.Response,
    file: BinaryIO,
    have: int,
    total: int | None,
    url: str,
    max_bytes: int,
) -> int:
    """Write the body to the file; the number of bytes that the file holds then."""
    name = PurePosixPath(urlsplit(url).path).name
    with tqdm(desc=name, total=total, initial=have, unit="B", unit_scale=True, disable=None) as bar:
        for chunk in response.iter_content(CHUNK):
            have += len(chunk)
            if have > max_bytes:
                raise ValueError(
                    f"{url} has more than {max_bytes} bytes, which is the most that is fetched"
                )
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    return have


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.ConnectionError):
        return "no connection to the server"
    if isinstance(error, requests.Timeout):
        return "the server does not answer"
    return str(error).splitlines()[0][:200]
