"""Several processes that measure as one: sums of shares are the whole, to rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import image_sets
import metrics
from metrics import Moments
from metrics.distances.streams import GroupedClasses, GroupedMoments
from metrics.sampling import BLOCK, first_image
from roles import Processes


def one_of(rank: int, size: int) -> Processes:
    """One of several processes that only shares out work."""
    processes = Processes()
    processes.rank, processes.size = rank, size
    return processes


def test_shares_are_everything_once_in_order():
    parts = [one_of(rank, 3).share(11) for rank in range(3)]
    assert [i for part in parts for i in part] == list(range(11))
    with pytest.raises(ValueError, match="3 processes cannot share 2 parts; start at most 2"):
        one_of(0, 3).share(2)


def test_the_processes_draw_the_images_that_one_would(toy):
    alone = torch.cat(list(metrics.draw_images(toy(), 130)))
    for rank in range(2):
        processes = one_of(rank, 2)
        mine = torch.cat(list(metrics.draw_images(toy(), 130, processes=processes)))
        first = first_image(130, processes)
        assert first == rank * 3 * BLOCK
        assert torch.equal(mine, alone[first : first + len(mine)])


@pytest.mark.parametrize("first", [0, 1, 25, 107])
def test_a_stream_that_begins_later_puts_its_samples_into_their_groups(first):
    x, p = torch.randn(203, 5), torch.randn(203, 4).softmax(1)
    whole, parts = GroupedMoments(5, 4), [GroupedMoments(5, 4), GroupedMoments(5, 4, first=first)]
    score = GroupedClasses(203, 4, num_groups=4, splits=10)
    scores = [GroupedClasses(203, 4, num_groups=4, splits=10, first=start) for start in (0, first)]
    whole.update(x)
    score.update(p)
    for index, rows in enumerate((slice(0, first), slice(first, 203))):
        parts[index].update(x[rows])
        scores[index].update(p[rows])
    for stream in (whole, *parts):
        stream.finish(Processes())
    for group, (a, b) in enumerate(zip(*(part.groups for part in parts), strict=True)):
        merged = a.merge(b)
        torch.testing.assert_close(merged.mean, whole.groups[group].mean)
        torch.testing.assert_close(merged.scatter, whole.groups[group].scatter)
    torch.testing.assert_close(scores[0].mass + scores[1].mass, score.mass)


def measure(processes: Processes, folder: Path, toy, pixels) -> None:
    """What a process finds, to folder/SIZE-RANK.json."""
    x = torch.randn(101, 7, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    share = processes.share(101)
    moments = Moments.of(x[share.start : share.stop] + 1000).over(processes)
    real = metrics.open_reference(folder / "real.zip", pixels(), batch=16, processes=processes)
    sample, labels = real.statistics.features, real.statistics.labels
    assert sample is not None and labels is not None
    seen = []
    found = metrics.compare(
        toy(0.2),
        toy(0.1),
        real,
        num_images=330,
        groups=7,
        metrics=["all"],
        processes=processes,
        progress=lambda done, total: seen.append((done, total)),
    )
    one = metrics.measure(toy(0.2), real, num_images=330, processes=processes)
    facts = {**found.facts(), "one": one.frechet_distance, "seen": seen[-1]}
    facts |= {"mean": moments.mean.tolist(), "scatter": moments.scatter.tolist()}
    facts |= {"sample": sample.tolist(), "labels": labels.tolist()}
    facts |= {"mu": real.statistics.mu.tolist()}
    del facts["seconds"]
    (folder / f"{processes.size}-{processes.rank}.json").write_text(json.dumps(facts))


CHILD = """
import sys
from pathlib import Path
folder, tests = Path(sys.argv[1]), sys.argv[2]
sys.path[:0] = [tests, str(Path(tests).parents[1])]
from conftest import Pixels, Toy
from roles.processes import join
from test_several import measure
processes = join("cpu")
measure(processes, folder, Toy, Pixels)
processes.leave()
"""


def numbers(value: object) -> list[float]:
    """Every number in nested plain data, in order."""
    if isinstance(value, dict):
        return [n for key in sorted(value) for n in numbers(value[key])]
    if isinstance(value, list):
        return [n for item in value for n in numbers(item)]
    return [float(value)] if isinstance(value, int | float) else []


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path, toy, features):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (143, 1, 8, 8), dtype=np.uint8)
    image_sets.write_zip(tmp_path / "real.zip", pictures, np.arange(143) % 3)
    port = str(20000 + os.getpid() % 20000)
    here = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    child = [sys.executable, "-c", CHILD, str(tmp_path), str(Path(__file__).parent)]
    started = [subprocess.Popen(child, env=here | {"RANK": str(rank)}) for rank in range(2)]
    measure(Processes(), tmp_path, toy, type(features))
    assert [process.wait(120) for process in started] == [0, 0]
    alone, first, second = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")
    )
    # All processes know the same, to the bit.
    assert first == second
    assert len(alone["differences"]) == len(metrics.METRICS)
    assert alone["reference"].pop("sha256") != ""
    first["reference"].pop("sha256")
    np.testing.assert_allclose(numbers(first), numbers(alone), rtol=1e-9, atol=1e-9)
    assert first["sample"] == alone["sample"]
    x = torch.randn(101, 7, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    want = Moments.of(x + 1000)
    np.testing.assert_allclose(first["scatter"], want.scatter, rtol=1e-10, atol=1e-9)
