"""Models of the Hugging Face Hub by id: OWNER/NAME, OWNER/NAME@REVISION, hf://OWNER/NAME/FILE.

Of a model's files only those are fetched that a teacher is made of: configurations, and one file of
weights. Where huggingface_hub is installed (the extra `hub`), it fetches and keeps them, with its
user's tokens and cache. Otherwise they are kept in our own cache (cache) by the commit that the Hub
names for the revision, each with its SHA-256; the weights' is compared with the one that the Hub
tells of them. What is kept is not asked for again: a commit never changes, and a branch's name
stays with the commit that it first led to.

The Hub's address is $HF_ENDPOINT, as for its own programs, else https://huggingface.co.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import requests

from checkpoints.atomic import replacing
from checkpoints.json_files import Json, read_json
from checkpoints.web.cache import TIMEOUT, default_folder, fetch_to
from roles.budget import check_json

SCHEME = "hf://"
MAIN = "main"
_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_FILE = r"(?:\w[\w.-]*/)*\w[\w.-]*"
_ID = re.compile(rf"({_PART})/({_PART})(?:@([\w.-]{{1,200}}))?(?:/({_FILE}))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# How the last part of a path to a file ends, where there is no such file.
FILES = {".pkl", ".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".onnx", ".json", ".npz", ".zip"}

CONFIGURATIONS = (
    *("model_index.json", "config.json", "scheduler_config.json"),
    *("unet/config.json", "scheduler/scheduler_config.json"),
    # Which tell a model of codes from one of images.
    *("vae/config.json", "vqvae/config.json"),
)
# The one without a variant, then safetensors, comes first: folders hold the same weights twice.
WEIGHTS = re.compile(r"(?:unet/)?diffusion_pytorch_model(\.[\w-]+)?\.(safetensors|bin)")
MAX_ANSWER = 16 * 2**20  # bytes of what the Hub says about a model


@dataclass(frozen=True)
class HubModel:
    """What an id asks for.

    Attributes:
        id: OWNER/NAME.
        revision: a branch, a tag or a commit; None takes what is kept, or else the newest.
        file: a single file of the model; None is the folder that a teacher is made of.
    """

    id: str
    revision: str | None
    file: str | None

    def __str__(self) -> str:
        return self.id + (f"@{self.revision}" if self.revision else "")


def is_hub_id(place: str | Path) -> bool:
    """Whether this names a model of the Hub and nothing that is here.

    A path of two parts looks the same: what exists, is in a folder that does, or ends like a file,
    is a path. hf:// is always of the Hub.
    """
    if not isinstance(place, str):
        return False
    if place.startswith(SCHEME):
        return True
    found = _ID.fullmatch(place)
    if found is None or found[4] or Path(place).suffix.lower() in FILES:
        return False
    return not Path(place).exists() and not Path(found[1]).is_dir()


def hub_model(place: str) -> HubModel:
    """Parse an id; ValueError where it is none."""
    found = _ID.fullmatch(place.removeprefix(SCHEME))
    if found is None:
        raise ValueError(
            f"{place[:80]!r} names no model of the Hub; give hf://OWNER/NAME, with @REVISION and "
            "/FILE where wanted"
        )
    return HubModel(f"{found[1]}/{found[2]}", found[3], found[4])


def local_model(place: str) -> Path:
    """Path of the folder, or of the file, of a model of the Hub; it is fetched if there is none.

    Raises:
        ValueError: no id, a model without the files that a teacher is made of, or weights with
            another SHA-256 than the Hub tells of them.
        OSError: there is no such model, or the Hub cannot be reached.
    """
    model = hub_model(place)
    if find_spec("huggingface_hub") is not None:
        return _by_their_package(model)
    home = default_folder() / "hub" / model.id.replace("/", "--")
    commit = _kept_commit(home, model.revision)
    kept = {} if commit is None else _read(home / f"{commit}.json")
    names = _wanted(model, list(kept)) if kept else []
    if not names:
        commit, offered = _ask(model)
        names = _wanted(model, list(offered))
        if not names:
            raise ValueError(_nothing_in(model, list(offered)))
        kept = {**_read(home / f"{commit}.json"), **{name: offered[name] for name in names}}
    assert commit is not None
    for name in names:
        digest = kept[name]
        fetch_to(
            home / commit / name,
            f"{_endpoint()}/{model.id}/resolve/{commit}/{quote(name)}",
            expected=digest if isinstance(digest, str) else None,
        )
    _write(home / f"{commit}.json", kept)
    _write(home / f"{model.revision or MAIN}.revision.json", {"commit": commit})
    _tell(model, commit)
    return home / commit / (model.file or "")


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _wanted(model: HubModel, names: Sequence[str]) -> list[str]:
    """The files to fetch of those that a model has; [] where no teacher can be made of them."""
    if model.file is not None:
        return [model.file] if model.file in names else []
    weights = [name for name in names if WEIGHTS.fullmatch(name)]
    configurations = [name for name in CONFIGURATIONS if name in names]
    if not weights or not any(name.endswith("config.json") for name in configurations):
        return []
    return [*configurations, min(weights, key=_preference)]


def _preference(name: str) -> tuple[bool, bool, str]:
    found = WEIGHTS.fullmatch(name)
    assert found is not None
    return bool(found[1]), found[2] != "safetensors", name


def _nothing_in(model: HubModel, names: Sequence[str]) -> str:
    shown = ", ".join(name[:60] for name in names[:6]) or "none"
    if model.file is not None:
        return f"{model} has no file {model.file[:80]!r} on the Hub; its files: {shown}"
    return (
        f"{model} on the Hub is no folder of diffusers (config.json and diffusion_pytorch_model); "
        f"its files: {shown}; name one as hf://{model}/FILE"
    )


def _kept_commit(home: Path, revision: str | None) -> str | None:
    """The commit that a revision leads to by what is kept here."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    commit = _read(home / f"{revision or MAIN}.revision.json").get("commit")
    return commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else None


def _ask(model: HubModel) -> tuple[str, dict[str, Json]]:
    """The commit of a model's revision, and SHA-256 by the names of its files; None is not told."""
    revision = quote(model.revision or MAIN, safe="")
    url = f"{_endpoint()}/api/models/{model.id}/revision/{revision}"
    try:
        with requests.get(url, params={"blobs": "true"}, stream=True, timeout=TIMEOUT) as response:
            if response.status_code in (401, 403, 404):
                raise FileNotFoundError(
                    f"{model} is neither a path here nor a model that the Hub shows to everybody "
                    f"(it answers {response.status_code}); for one that needs a token, install "
                    "huggingface_hub"
                )
            response.raise_for_status()
            text = b""
            for chunk in response.iter_content(2**16):
                text += chunk
                if len(text) > MAX_ANSWER:
                    raise ValueError(f"{url} answers with more than {MAX_ANSWER} bytes")
    except requests.RequestException as error:
        reason = (
            str(error).splitlines()[0][:120]
            if error.response is not None
            else ("no connection to the Hub")
        )
        raise OSError(
            f"{model} is no path here, and cannot be asked for at {_endpoint()} ({reason}); try "
            "again, or give a folder"
        ) from error
    return _understood(text, url)


def _understood(text: bytes, url: str) -> tuple[str, dict[str, Json]]:
    """The commit and the files of the Hub's answer about a model."""
    check_json(text, url)
    try:
        answer = json.loads(text)
        commit, siblings = answer["sha"], answer["siblings"]
        assert isinstance(commit, str) and _COMMIT.fullmatch(commit) and isinstance(siblings, list)
        return commit, {str(entry["rfilename"]): _digest_of(entry) for entry in siblings}
    except (ValueError, LookupError, TypeError, AssertionError, RecursionError) as error:
        raise ValueError(f"{url} does not answer as the Hub does; see HF_ENDPOINT") from error


def _digest_of(entry: Mapping[str, Json]) -> str | None:
    """SHA-256 that the Hub tells of a file in large file storage."""
    lfs = entry.get("lfs")
    digest = lfs.get("sha256") if isinstance(lfs, dict) else None
    return digest if isinstance(digest, str) and _SHA256.fullmatch(digest) else None


def _read(path: Path) -> dict[str, Json]:
    return read_json(path, max_bytes=MAX_ANSWER) if path.is_file() else {}


def _write(path: Path, data: Mapping[str, Json]) -> None:
    if _read(path) != data:
        with replacing(path) as file:
            file.write(json.dumps(data, indent=1).encode())


def _tell(model: HubModel, commit: str) -> None:
    print(f"{model.id} of the Hub, at commit {commit}", file=sys.stderr)


def _by_their_package(model: HubModel) -> Path:
    """The same by huggingface_hub, which knows tokens and keeps its own cache."""
    import huggingface_hub  # pyright: ignore[reportMissingImports]  # optional

    asked = {"revision": model.revision or MAIN, "endpoint": _endpoint()}
    try:
        info = huggingface_hub.HfApi(endpoint=_endpoint()).model_info(
            model.id, revision=asked["revision"]
        )
    except Exception as error:  # of requests or of httpx, by its version
        try:  # without a network what it keeps serves
            found = huggingface_hub.snapshot_download(model.id, local_files_only=True, **asked)
        except Exception:  # likewise; what is told is the first
            raise _not_fetched(model, error) from error
        return Path(found) / (model.file or "")
    offered = [entry.rfilename for entry in info.siblings or ()]
    names = _wanted(model, offered)
    if not names:
        raise ValueError(_nothing_in(model, offered))
    asked["revision"] = str(info.sha)
    try:
        paths = [Path(huggingface_hub.hf_hub_download(model.id, name, **asked)) for name in names]
    except Exception as error:  # of requests or of httpx, as above
        raise _not_fetched(model, error) from error
    _tell(model, asked["revision"])
    return paths[0] if model.file else paths[0].parents[names[0].count("/")]


def _not_fetched(model: HubModel, error: Exception) -> OSError:
    return OSError(
        f"{model} is no path here, and huggingface_hub cannot fetch it "
        f"({' '.join(str(error).split())[:300]})"
    )
