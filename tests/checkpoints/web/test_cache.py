"""Files from the web: fetched once, resumed where they broke off, and checked on every use."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner

import checkpoints
from checkpoints.web import cache, places
from refine import main
from refiners.runs.provenance import sha256

BODY = bytes(range(256)) * 4096  # 1 MiB


class Server(http.server.ThreadingHTTPServer):
    """Serves one file; counts requests and can break off, change, or refuse to resume."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = BODY
        self.etag: str | None = '"one"'
        self.break_after: int | None = None
        self.extra_headers: dict[str, str] = {}
        self.length: str | None = ""  # "" is the right one, None is none
        self.trusting = False  # resumes whatever If-Range says
        self.status: int | None = None
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/nets/stylegan%202.pkl?x=1"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        body, start = self.server.body, 0
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        same = self.server.trusting or self.headers.get("If-Range") == self.server.etag
        if asked and same:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if asked and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(self.server.status or (206 if start else 200))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        for key, value in self.server.extra_headers.items():
            self.send_header(key, value)
        chunked = "Transfer-Encoding" in self.server.extra_headers
        if not chunked and self.server.length is not None:
            self.send_header("Content-Length", self.server.length or str(len(body) - start))
        self.end_headers()
        sent = body[start : self.server.break_after]
        self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(sent), sent) if chunked else sent)
        return None

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_file_is_fetched_once_and_keeps_its_name(server, tmp_path):
    path = checkpoints.fetch(server.url, cache_dir=tmp_path)
    assert path.read_bytes() == BODY
    assert path.parent == tmp_path
    assert path.name.endswith("-stylegan_2.pkl")
    assert checkpoints.fetch(server.url, cache_dir=tmp_path) == path
    assert server.ranges == [None]
    digest = path.with_name(path.name + ".sha256").read_text()
    assert digest == f"{cache.sha256(path)}  {path.name}\n"


def test_different_addresses_never_share_a_file(server, tmp_path):
    first = checkpoints.fetch(server.url, cache_dir=tmp_path)
    second = checkpoints.fetch(server.url + "&y=2", cache_dir=tmp_path)
    assert first != second


def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path):
    server.break_after = 300_000
    with pytest.raises(OSError, match="try again to go on"):
        checkpoints.fetch(server.url, cache_dir=tmp_path)
    assert [file for file in tmp_path.iterdir() if file.suffix == ".pkl"] == []
    (part,) = tmp_path.glob("*.part")
    have = part.stat().st_size
    assert 0 < have <= 300_000
    server.break_after = None
    assert checkpoints.fetch(server.url, cache_dir=tmp_path).read_bytes() == BODY
    assert server.ranges == [None, f"bytes={have}-"]
    assert not list(tmp_path.glob("*.part*"))


def test_a_transfer_that_had_ended_but_was_not_recorded_starts_again(server, tmp_path):
    path = checkpoints.fetch(server.url, cache_dir=tmp_path)
    path.rename(path.with_name(path.name + ".part"))
    path.with_name(path.name + ".part.etag").write_text('"one"')
    assert checkpoints.fetch(server.url, cache_dir=tmp_path).read_bytes() == BODY
    assert server.ranges == [None, f"bytes={len(BODY)}-", None]


@pytest.mark.parametrize("etag", ['"two"', None, 'W/"one"'])
def test_a_file_that_may_have_changed_is_fetched_from_the_start(etag, server, tmp_path):
    server.break_after = 300_000
    if etag != '"two"':
        server.etag = etag
    with pytest.raises(OSError, match="try again"):
        checkpoints.fetch(server.url, cache_dir=tmp_path)
    server.break_after, server.etag, server.body = None, etag, BODY[::-1]
    assert checkpoints.fetch(server.url, cache_dir=tmp_path).read_bytes() == BODY[::-1]


def test_a_part_of_another_file_is_not_joined_to_the_first(server, tmp_path):
    server.break_after = 300_000
    with pytest.raises(OSError, match="try again"):
        checkpoints.fetch(server.url, cache_dir=tmp_path)
    server.break_after, server.etag, server.body = None, '"two"', BODY[::-1]
    server.trusting = True
    assert checkpoints.fetch(server.url, cache_dir=tmp_path).read_bytes() == BODY[::-1]
    assert [asked is None for asked in server.ranges] == [True, False, True]


def test_the_record_of_a_part_never_belongs_to_other_bytes(server, tmp_path, monkeypatch):
    server.break_after = 300_000
    with pytest.raises(OSError, match="try again"):
        checkpoints.fetch(server.url, cache_dir=tmp_path)
    server.break_after, server.etag, server.body = None, '"two"', BODY[::-1]

    def dies(*arguments: object) -> None:
        raise KeyboardInterrupt

    # The process dies between the new answer's header and its first byte.
    for step in ("replacing", "_receive"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(cache, step, dies)
            checkpoints.fetch(server.url, cache_dir=tmp_path)
    assert checkpoints.fetch(server.url, cache_dir=tmp_path).read_bytes() == BODY[::-1]


@pytest.mark.parametrize(
    ("body", "length", "complaint"),
    [
        (b"", "", "an empty file"),
        (b"\n <!DOCTYPE html><html>sign in</html>", "", "a web page"),
        (b"\xef\xbb\xbf<html>", "", "a web page"),
        (BODY, "abc", "announces 'abc' for a number of bytes"),
        (BODY, "-5", "announces '-5'"),
        (BODY, "1e3", "announces '1e3'"),
        (BODY, None, "does not say how long the file is"),
    ],
)
def test_what_is_no_whole_file_is_never_kept(server, tmp_path, body, length, complaint):
    server.body, server.length = body, length
    if body == b"":
        server.extra_headers = {"Transfer-Encoding": "chunked"}
    for _ in range(2):
        with pytest.raises(OSError, match=complaint) as error:
            checkpoints.fetch(server.url, cache_dir=tmp_path)
        assert server.url in str(error.value)
        assert {path.suffix for path in tmp_path.iterdir()} <= {".lock"}


def test_a_file_in_chunks_is_kept_as_its_end_is_marked(server, tmp_path):
    server.extra_headers = {"Transfer-Encoding": "chunked"}
    assert checkpoints.fetch(server.url, cache_dir=tmp_path).read_bytes() == BODY


def test_a_web_page_that_was_kept_before_is_refused_on_use(server, tmp_path):
    path = checkpoints.fetch(server.url, cache_dir=tmp_path)
    path.write_bytes(b"<html>")
    cache._record_digest(path, cache.sha256(path))
    with pytest.raises(ValueError, match=r"a web page.*remove it and it is fetched again"):
        checkpoints.fetch(server.url, cache_dir=tmp_path)


def test_a_fault_of_a_fetched_file_names_the_copy(server, tmp_path, monkeypatch):
    monkeypatch.setenv("REFINE_CACHE_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=r"-stylegan_2\.pkl is not a network pickle") as error:
        checkpoints.read(server.url)
    assert str(tmp_path) in str(error.value)


def test_data_may_be_an_address(server, tmp_path, monkeypatch):
    monkeypatch.setenv("REFINE_CACHE_DIR", str(tmp_path))
    assert checkpoints.local_data(server.url).read_bytes() == BODY
    assert checkpoints.local_data("ffhq") == checkpoints.local_data(Path("ffhq")) == Path("ffhq")


def test_a_copy_that_changed_on_disk_is_refused(server, tmp_path):
    path = checkpoints.fetch(server.url, cache_dir=tmp_path)
    path.write_bytes(BODY[:-1] + b"\x00")
    with pytest.raises(ValueError, match=r"SHA-256 .* remove it and it is fetched again"):
        checkpoints.fetch(server.url, cache_dir=tmp_path)
    path.unlink()
    assert checkpoints.fetch(server.url, cache_dir=tmp_path).read_bytes() == BODY


def test_a_copy_without_a_recorded_hash_is_refused(server, tmp_path):
    path = checkpoints.fetch(server.url, cache_dir=tmp_path)
    path.with_name(path.name + ".sha256").unlink()
    with pytest.raises(ValueError, match="no recorded SHA-256"):
        checkpoints.fetch(server.url, cache_dir=tmp_path)


def test_too_large_a_file_is_refused_whether_announced_or_not(server, tmp_path):
    with pytest.raises(ValueError, match=f"{len(BODY)} bytes; at most 1000"):
        checkpoints.fetch(server.url, cache_dir=tmp_path, max_bytes=1000)
    server.extra_headers = {"Transfer-Encoding": "chunked"}
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        checkpoints.fetch(server.url, cache_dir=tmp_path, max_bytes=1000)


def test_a_refusal_and_a_compressed_answer_leave_no_file(server, tmp_path):
    server.status = 404
    with pytest.raises(OSError, match=r"404.*give its path"):
        checkpoints.fetch(server.url, cache_dir=tmp_path)
    server.status, server.extra_headers = None, {"Content-Encoding": "gzip"}
    with pytest.raises(OSError, match="compressed"):
        checkpoints.fetch(server.url, cache_dir=tmp_path)
    assert not list(tmp_path.glob("*.pkl"))


def test_without_a_connection_the_error_names_the_address_and_the_way_round(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(OSError, match="no connection to the server") as error:
        checkpoints.fetch(server.url, cache_dir=tmp_path)
    assert server.url in str(error.value)
    assert "give its path" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_here_needs_no_connection(server, tmp_path):
    path = checkpoints.fetch(server.url, cache_dir=tmp_path)
    server.shutdown()
    server.server_close()
    assert checkpoints.fetch(server.url, cache_dir=tmp_path) == path


@pytest.mark.parametrize("address", ["ftp://a/b.pkl", "file:///etc/passwd", "hf://a/b", "a.pkl"])
def test_only_http_addresses_are_fetched(address, tmp_path):
    with pytest.raises(ValueError, match="give"):
        checkpoints.fetch(address, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_read_takes_an_address_and_keeps_the_file_in_the_named_folder(
    server, snapshot, tmp_path, monkeypatch
):
    monkeypatch.setenv("REFINE_CACHE_DIR", str(tmp_path / "cache"))
    checkpoints.write(snapshot, tmp_path / "a.pkl")
    server.body = (tmp_path / "a.pkl").read_bytes()
    data = cast("Any", checkpoints.read(server.url))
    assert data["training_set_kwargs"] == snapshot["training_set_kwargs"]
    assert list((tmp_path / "cache").glob("*.pkl"))


def test_the_folder_is_the_named_one_then_the_shared_one_then_the_home(tmp_path, monkeypatch):
    monkeypatch.delenv("REFINE_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.default_folder() == tmp_path / ".cache" / "refine-gan"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.default_folder() == tmp_path / "x" / "refine-gan"
    monkeypatch.setenv("REFINE_CACHE_DIR", str(tmp_path / "y"))
    assert cache.default_folder() == tmp_path / "y"


@pytest.fixture
def named(server, monkeypatch, tmp_path) -> Server:
    """The server, known as the published network ffhq; files are kept in tmp_path / cache."""
    monkeypatch.setattr(places, "ADDRESSES", {"ffhq": server.url})
    monkeypatch.setenv("REFINE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return server


def test_a_published_name_an_address_and_a_path_lead_to_the_same_file(named, tmp_path):
    by_name = checkpoints.local("ffhq")
    assert by_name.read_bytes() == BODY
    assert by_name == checkpoints.local(named.url) == checkpoints.local(str(by_name))
    assert named.ranges == [None]
    assert sha256("ffhq") == sha256(named.url) == sha256(by_name) == checkpoints.sha256(by_name)


def test_a_file_of_a_published_name_comes_first_and_a_line_says_so(named, tmp_path, capsys):
    (tmp_path / "ffhq").write_bytes(b"mine")
    assert checkpoints.local("ffhq").read_bytes() == b"mine"
    assert "taking the file of this name in the current folder" in capsys.readouterr().err
    assert checkpoints.local("./ffhq").read_bytes() == b"mine"
    assert capsys.readouterr().err == ""
    assert named.ranges == []


def test_a_name_that_cannot_be_fetched_names_itself_and_its_address(named):
    named.status = 404
    with pytest.raises(OSError, match="published network ffhq is not kept here") as error:
        checkpoints.local("ffhq")
    assert named.url in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"ffhk does not exist; .* similar names: ffhq"):
        checkpoints.local("ffhk")


def test_a_broken_transfer_of_a_published_name_goes_on(named):
    named.break_after = 300_000
    with pytest.raises(OSError, match="published network ffhq"):
        checkpoints.local("ffhq")
    named.break_after = None
    assert checkpoints.local("ffhq").read_bytes() == BODY
    assert named.ranges[0] is None and str(named.ranges[1]).startswith("bytes=")


def test_of_an_address_with_a_known_hash_nothing_else_is_kept(named, monkeypatch):
    digest = hashlib.sha256(BODY).hexdigest()
    monkeypatch.setattr(cache, "SHA256", {named.url: digest})
    named.body = BODY[::-1]
    with pytest.raises(ValueError, match=f"where {digest} is known of it; nothing of it was kept"):
        checkpoints.local("ffhq")
    assert not [path for path in cache.default_folder().iterdir() if path.suffix != ".lock"]
    named.body = BODY
    path = checkpoints.local("ffhq")
    assert path.read_bytes() == BODY
    monkeypatch.setattr(cache, "SHA256", {named.url: "0" * 64})
    with pytest.raises(ValueError, match=f"where {'0' * 64} is known of its address; remove it"):
        checkpoints.local("ffhq")


def test_a_truncated_or_replaced_copy_is_refused_by_every_name(named):
    path = checkpoints.local("ffhq")
    for content in (BODY[:-5], BODY[::-1], b""):
        path.write_bytes(content)
        for place in ("ffhq", named.url):
            with pytest.raises(ValueError, match=r"SHA-256 .* remove it and it is fetched again"):
                sha256(place)


def test_every_command_takes_a_name_or_an_address(named, snapshot, tmp_path):
    written = tmp_path / "a.pkl"
    checkpoints.write(snapshot, written)
    named.body = written.read_bytes()
    expected = checkpoints.sha256(written)
    for place in ("ffhq", named.url, "a.pkl"):
        result = CliRunner().invoke(main, ["inspect", place, "--json"])
        assert result.exit_code == 0, result.output
        assert json.loads(result.output)["sha256"] == expected
    assert len(named.ranges) == 1


def test_the_hash_of_a_folder_is_that_of_its_list_of_hashes(tmp_path):
    (tmp_path / "unet").mkdir()
    for name in ("unet/b", "a"):
        (tmp_path / name).write_text(name)
    lines = "".join(
        f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n" for name in ("a", "unet/b")
    )
    assert sha256(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()
