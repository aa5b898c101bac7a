"""Compiling kernels: once, never waiting for ever, never in the way."""

from __future__ import annotations

import os
import shutil
import time

import pytest
import torch

from stylegan_ops import bias_act
from stylegan_ops.kernels import build, choice


def test_a_lock_whose_owner_died_is_broken_with_a_line(tmp_path, capsys):
    lock = tmp_path / "cpu.lock"
    lock.touch()
    long_ago = time.time() - 1000
    os.utime(lock, (long_ago, long_ago))
    with build.alone(lock, stale_seconds=10):
        assert lock.exists()
    assert not lock.exists()
    assert "older than 10 s" in capsys.readouterr().err


def test_a_lock_that_is_held_is_waited_for_no_longer_than_stated(tmp_path):
    lock = tmp_path / "cpu.lock"
    lock.touch()
    start = time.monotonic()
    with build.alone(lock, stale_seconds=0.3):
        pass
    assert 0.1 < time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'a.cpp:1: error: no such thing'; echo more; exit 1", "error: no such thing"),
        ("exit 3", "failed"),
        ("exit 0", "failed"),
    ],
)
def test_a_compiler_that_fails_is_one_line_with_its_first_error_and_a_log(tmp_path, script, words):
    product = tmp_path / "cpu-0.so"
    with pytest.raises(build.BuildError, match=words) as caught:
        build.compile_to(product, ["sh", "-c", script])
    assert "\n" not in str(caught.value)
    assert product.with_suffix(".log").exists()
    assert not product.exists()


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """No kernels loaded and an empty cache, as in a new installation."""
    monkeypatch.setenv("REFINE_CACHE_DIR", str(tmp_path))
    remembered = (build.library, choice.available)
    for function in remembered:
        function.cache_clear()
    yield tmp_path
    for function in remembered:
        function.cache_clear()


def test_without_a_working_compiler_the_definitions_compute_and_one_line_says_so(
    fresh, monkeypatch, capsys
):
    false = shutil.which("false")
    if false is None:
        pytest.skip("no command `false` here to stand for a broken compiler")
    monkeypatch.setenv("CXX", false)
    monkeypatch.delenv("REFINE_OPS")
    x = torch.ones(choice.LEAST_ELEMENTS)
    for _ in range(2):
        assert torch.equal(bias_act(x, act="linear", gain=2), x * 2)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "torch's own are used" in said[0]
    with pytest.raises(build.BuildError):
        bias_act(x, impl="cpu")


def test_refine_ops_switches_kernels_off_and_nothing_compiles(fresh, monkeypatch, capsys):
    monkeypatch.setenv("REFINE_OPS", "reference")
    bias_act(torch.ones(choice.LEAST_ELEMENTS), act="relu")
    assert capsys.readouterr().err == ""
    assert list(fresh.iterdir()) == []
