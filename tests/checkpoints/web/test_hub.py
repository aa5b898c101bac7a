"""Models of the Hub: what a teacher is made of is fetched once, by commit, and checked."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

import checkpoints
import teachers
from checkpoints.web import hub
from refine import main

ONE, TWO = "1" * 40, "2" * 40
CONFIG = json.dumps({"_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 3}).encode()
WEIGHTS = safetensors.torch.save({"conv_in.weight": torch.ones(4, 3, 3, 3)})


class Hub(http.server.ThreadingHTTPServer):
    """A Hub of a single model, church/ddpm: revision -> commit, commit -> files."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.branches = {"main": ONE, ONE: ONE, TWO: TWO}
        self.files: dict[str, dict[str, bytes]] = {
            ONE: {"README.md": b"# hello", "config.json": CONFIG,
                  "scheduler_config.json": b"{}",
                  "diffusion_pytorch_model.bin": b"not wanted beside safetensors",
                  "diffusion_pytorch_model.safetensors": WEIGHTS},
        }  # fmt: skip
        self.told: dict[str, str] = {}  # SHA-256 of a file, where another than its own
        self.asked: list[str] = []
        self.answer: bytes | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.server.asked.append(path)
        body = self._info(path, parse_qs(parts.query)) or self._file(path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def do_HEAD(self) -> None:
        """As huggingface_hub asks before it fetches."""
        path = unquote(urlsplit(self.path).path)
        body = self._file(path)
        self.send_response(404 if body is None else 200)
        if body is not None:
            self.send_header("X-Repo-Commit", path.split("/")[4])
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()

    def _info(self, path: str, query: dict[str, list[str]]) -> bytes | None:
        server = self.server
        revision = path.removeprefix("/api/models/church/ddpm/revision/")
        commit = server.branches.get(revision)
        if commit is None:
            return None
        if server.answer is not None:
            return server.answer
        siblings = []
        for name, body in server.files[commit].items():
            entry: dict[str, Any] = {"rfilename": name}
            if name.startswith("diffusion") and query.get("blobs") == ["true"]:
                digest = server.told.get(name, hashlib.sha256(body).hexdigest())
                entry["lfs"] = {"sha256": digest, "size": len(body)}
            siblings.append(entry)
        return json.dumps({"id": "church/ddpm", "sha": commit, "siblings": siblings}).encode()

    def _file(self, path: str) -> bytes | None:
        parts = path.removeprefix("/church/ddpm/resolve/").split("/", 1)
        return self.server.files.get(parts[0], {}).get(parts[1]) if len(parts) == 2 else None

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The Hub; files are kept in tmp_path / cache, by our own downloader."""
    with Hub() as server:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("REFINE_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setattr(hub, "find_spec", lambda name: None)
        monkeypatch.chdir(tmp_path)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def contents(folder: Path) -> dict[str, bytes]:
    """The model's files in a folder, without what the cache keeps beside them."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".lock", ".sha256")
    }


def test_a_model_is_fetched_once_by_its_commit_and_without_what_no_teacher_needs(server, capsys):
    folder = checkpoints.local("church/ddpm")
    assert contents(folder) == {
        "config.json": CONFIG,
        "scheduler_config.json": b"{}",
        "diffusion_pytorch_model.safetensors": WEIGHTS,
    }
    assert folder.name == ONE
    assert f"church/ddpm of the Hub, at commit {ONE}" in capsys.readouterr().err
    asked = list(server.asked)
    for again in ("church/ddpm", f"church/ddpm@{ONE}", "hf://church/ddpm", "church/ddpm@main"):
        assert checkpoints.local(again) == folder
    assert server.asked == asked


def test_a_branch_that_moved_stays_at_the_commit_that_is_kept_and_another_can_be_asked_for(server):
    first = checkpoints.local("church/ddpm")
    server.files[TWO] = {**server.files[ONE], "config.json": b'{"new": 1}'}
    server.branches["main"] = TWO
    assert checkpoints.local("church/ddpm") == first
    second = checkpoints.local(f"church/ddpm@{TWO}")
    assert (second / "config.json").read_bytes() == b'{"new": 1}'
    assert (first / "config.json").read_bytes() == CONFIG


def test_a_pipeline_comes_with_its_folders_and_a_single_file_without(server):
    server.files[ONE] = {
        "model_index.json": b'{"_class_name": "DDPMPipeline"}',
        "unet/config.json": CONFIG,
        "unet/diffusion_pytorch_model.fp16.bin": b"a variant",
        "unet/diffusion_pytorch_model.bin": b"weights",
        "scheduler/scheduler_config.json": b"{}",
        "vae/config.json": b"{}",
        "nets/edm.pkl": b"a pickle",
    }
    folder = checkpoints.local("church/ddpm")
    assert contents(folder).keys() == server.files[ONE].keys() - {
        "unet/diffusion_pytorch_model.fp16.bin",
        "nets/edm.pkl",
    }
    assert checkpoints.local("hf://church/ddpm/nets/edm.pkl").read_bytes() == b"a pickle"
    with pytest.raises(ValueError, match=r"has no file 'nets/edn.pkl' on the Hub; its files:"):
        checkpoints.local("hf://church/ddpm/nets/edn.pkl")


def test_weights_with_another_hash_than_the_hub_tells_are_not_kept(server, tmp_path):
    server.told["diffusion_pytorch_model.safetensors"] = "0" * 64
    with pytest.raises(ValueError, match="nothing of it was kept"):
        checkpoints.local("church/ddpm")
    assert not list((tmp_path / "cache").rglob("*.safetensors*[!k]"))
    server.told.clear()
    weights = checkpoints.local("church/ddpm") / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(WEIGHTS[:-1] + b"\1")
    with pytest.raises(ValueError, match=r"was recorded with .* remove it"):
        checkpoints.local("church/ddpm")


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"model.pkl": b"x"}, r"is no folder of diffusers .* its files: model.pkl; name one as hf"),
        ({"config.json": b"{}"}, "is no folder of diffusers"),
        ({"../config.json": b"{}", "../diffusion_pytorch_model.bin": b""}, "is no folder of"),
        ({}, "its files: none"),
    ],
)
def test_a_model_that_is_no_teacher_is_refused_before_anything_is_fetched(server, files, complaint):
    server.files[ONE] = files
    with pytest.raises(ValueError, match=complaint):
        checkpoints.local("church/ddpm")
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "answer", [b"<html>", b"[]", b'{"sha": "../x", "siblings": []}', b'{"sha": 1}', b"\xff"]
)
def test_an_answer_that_is_not_the_hubs_is_one_line(server, answer):
    server.answer = answer
    with pytest.raises(ValueError, match="does not answer as the Hub does; see HF_ENDPOINT"):
        checkpoints.local("church/ddpm")


def test_a_model_that_is_not_there_is_one_line_of_the_command(server):
    result = CliRunner().invoke(main, ["inspect", "church/dddpm"])
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert "church/dddpm is neither a path here nor a model that the Hub shows" in line
    server.shutdown()
    server.server_close()
    result = CliRunner().invoke(main, ["inspect", "church/ddpm"])
    assert result.exit_code == 2
    assert "cannot be asked for at" in result.stderr
    with pytest.raises(OSError, match="no connection to the Hub"):
        teachers.load("church/ddpm")


def test_inspect_shows_a_model_of_the_hub(server):
    result = CliRunner().invoke(main, ["inspect", "church/ddpm", "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["main"] == "unet"
    assert facts["networks"]["unet"]["sizes"]["img_resolution"] == 8


@pytest.mark.parametrize(
    "name", ["diffusers-ddpm-2022-names-small", "diffusers-ncsnpp-ve-2022-names-small"]
)
def test_a_teacher_of_the_hub_is_the_one_in_its_folder(server, samples, name):
    folder = samples / name
    server.files[ONE] = contents(folder)
    here, there = teachers.load(folder), teachers.load("church/ddpm")
    x = torch.randn(1, here.img_channels, here.img_resolution, here.img_resolution)
    sigma = torch.tensor([2.0])
    torch.testing.assert_close(there(x, sigma), here(x, sigma), rtol=0, atol=0)


def test_paths_come_before_ids(server, tmp_path):
    (tmp_path / "church").mkdir()
    for path in ("church/ddpm", "nets/edm.pkl", "a/b/c", "./church", "church/", "x", "a b/c"):
        assert not checkpoints.is_hub_id(path), path
    assert not checkpoints.is_hub_id(tmp_path / "google" / "ddpm")
    assert not checkpoints.is_hub_id(Path("google/ddpm-church-256"))
    for known in ("google/ddpm-church-256", "google/ddpm@v1.0", "hf://church/ddpm", "a.b/c_d"):
        assert checkpoints.is_hub_id(known), known
    for bad in ("hf://x", "hf://a/b//etc/passwd", "hf://a/b/../c", "hf:///", "hf://a/b@"):
        with pytest.raises(ValueError, match="names no model of the Hub"):
            checkpoints.local(bad)


@pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed")
def test_their_package_brings_the_same_files(server, monkeypatch, tmp_path):
    ours = contents(checkpoints.local("church/ddpm"))
    monkeypatch.setattr(hub, "find_spec", find_spec)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "theirs"))
    assert contents(checkpoints.local("church/ddpm")) == ours
    server.branches.clear()
    assert contents(checkpoints.local("church/ddpm")) == ours
