"""What memory is free: as the system says it, with what this process has already."""

from __future__ import annotations

import sys

import pytest

from refiners.runs import memory


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Path -> what the system's files say; a file that is not there is empty."""
    files = {
        "/proc/meminfo": "MemTotal:  8000 kB\nMemAvailable:    4000 kB\n",
        "/proc/self/statm": "900 50 20",
    }
    monkeypatch.setattr(memory, "_read", lambda path: files.get(path, ""))
    monkeypatch.setattr(memory.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096}[name])
    return files


def test_what_is_free_and_what_is_held_already_count_together(system):
    assert memory.free_memory("cpu") == 4000 * 1024 + 50 * 4096


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [("1000000", "400000", 600_000), ("1000000", "2000000", 0), ("max", "400000", 4000 * 1024)],
)
def test_the_limit_of_a_container_counts(system, limit, used, free):
    system["/sys/fs/cgroup/memory.max"] = f"{limit}\n"
    system["/sys/fs/cgroup/memory.current"] = f"{used}\n"
    assert memory.free_memory("cpu") == free + 50 * 4096


def test_where_the_system_does_not_say_it_nothing_is_guessed(system, monkeypatch):
    system.clear()

    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(memory.os, "sysconf", unknown)
    assert memory.free_memory("cpu") is None


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells it in these files")
def test_this_system_has_some():
    found = memory.free_memory("cpu")
    assert found is not None and 2**24 < found < 2**46
