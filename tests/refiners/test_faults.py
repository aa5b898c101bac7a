"""What goes wrong outside the program costs at most the steps since the last state."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from refiners import RunFolder, Settings, read_state
from refiners.diff_instruct import DiffInstruct
from refiners.runs.schedule import label
from tests.refiners.conftest import refine_toys

ROOT = Path(__file__).parents[2]
SHORT: dict[str, Any] = {
    **{"kimg": 0.32, "batch": 16, "glr": 0.02, "lr": 0.02, "warmup_kimg": 0.064},
    **{"rampup_kimg": 0, "auxiliary_steps": 1, "tick": 0.064, "snap": 1},
}


def start(affine: Any, gaussian: Any, **arguments: Any) -> Any:
    """Refine the toy for 20 steps of 16 images after 4 of warm-up, with a tick every 4 steps."""
    options = Settings(**{**SHORT, **arguments.pop("changes", {})})
    given = {"kimg": options.kimg, "progress": False, "settings": options, **arguments}
    return refine_toys(affine(-0.4, 0.3), gaussian(0.3, 0.5), **given)


def assert_equal(a: Any, b: Any) -> None:
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(x, y)


class FailsOnce(DiffInstruct):
    """Diff-Instruct that raises at a step, once."""

    error: Exception | None = None
    steps = 0

    def pixel_gradient(self, *arguments: Any, **options: Any) -> Any:
        FailsOnce.steps += 1
        if FailsOnce.steps == 11 and FailsOnce.error is not None:
            error, FailsOnce.error = FailsOnce.error, None
            raise error
        return super().pixel_gradient(*arguments, **options)


def test_a_gpu_without_memory_is_one_line_with_what_to_do_and_the_run_goes_on_in_less(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path, "run")
    said = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of ..."
    FailsOnce.error, FailsOnce.steps = torch.OutOfMemoryError(said), 0
    with pytest.raises(MemoryError) as caught:
        start(affine, gaussian, folder=folder, method=FailsOnce())
    assert str(caught.value) == (
        "CUDA out of memory; the run stopped at kimg 0.16, and resume continues from "
        "training-state-000000_128.pt; --batch-gpu 8 reaches the same in less memory"
    )
    assert read_state(folder.states()[-1])["num_images"] == 128
    plain = start(affine, gaussian, method=FailsOnce())
    continued = start(affine, gaussian, folder=folder, method=FailsOnce(), resume=True)
    assert_equal(plain, continued)


class AsksForTooMuch(DiffInstruct):
    """Diff-Instruct that asks the allocator for more than it can give at a step, once."""

    steps = 0

    def pixel_gradient(self, x_0: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        AsksForTooMuch.steps += 1
        if AsksForTooMuch.steps == 11:
            torch.empty([2**55], device=x_0.device)
        return super().pixel_gradient(x_0, *arguments, **options)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_an_allocator_at_its_limit_ends_the_run_in_one_line_with_every_state_whole(
    affine: Any, gaussian: Any, tmp_path: Path, device: str
) -> None:
    def refined(**given: Any) -> Any:
        pair = affine(-0.4, 0.3).to(device), gaussian(0.3, 0.5).to(device)
        options = Settings(**SHORT)
        method = AsksForTooMuch()
        return refine_toys(
            *pair, method=method, kimg=0.32, progress=False, settings=options, **given
        )

    folder, AsksForTooMuch.steps = RunFolder.create(tmp_path, "run"), 0
    with pytest.raises(
        MemoryError, match=r"memory.*; the run .*from training-state-000000_128\.pt"
    ):
        refined(folder=folder)
    assert [read_state(path)["num_images"] for path in folder.states()] == [64, 128]
    assert_equal(refined(), refined(folder=folder, resume=True))


def test_without_a_folder_the_line_does_not_speak_of_states(affine: Any, gaussian: Any) -> None:
    FailsOnce.error, FailsOnce.steps = torch.OutOfMemoryError("CUDA out of memory. Much"), 0
    with pytest.raises(MemoryError, match=r"stopped at kimg 0\.08; --batch-gpu 4 reaches"):
        start(affine, gaussian, method=FailsOnce(), changes={"batch_gpu": 8})


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond this, as on a disk that is full; the system says EFBIG."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def contents(folder: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.path.iterdir()}


def bytes_of(student: torch.nn.Module) -> bytes:
    stream = io.BytesIO()
    torch.save(student.state_dict(), stream)
    return stream.getvalue()


def test_a_disk_that_is_full_ends_the_run_and_leaves_every_file_whole(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path, "run")
    start(affine, gaussian, folder=folder, changes={"kimg": 0.128})
    before = contents(folder)
    # Lines still fit into the small files, a state does not.
    size = len(before["training-state-000000_128.pt"]) // 2
    with largest_file(size), pytest.raises(OSError, match=r"stopped at kimg 0\.192.* resume cont"):
        start(affine, gaussian, folder=folder, resume=True)
    after = contents(folder)
    for name in ("training-state-000000_064.pt", "training-state-000000_128.pt"):
        assert after[name] == before[name]
    assert not [name for name in after if name.endswith(".tmp")]
    for name, content in before.items():
        whole = after[name].startswith(content) or name.endswith((".png", ".pt"))
        assert whole, name
    assert_equal(start(affine, gaussian), start(affine, gaussian, folder=folder, resume=True))


@pytest.mark.slow
@pytest.mark.parametrize("share", [k / 10 for k in range(10)])
def test_wherever_the_disk_is_full_the_run_goes_on_from_what_is_there_to_the_same_end(
    affine: Any, gaussian: Any, tmp_path: Path, share: float
) -> None:
    """The files of a run are of many sizes; the limit lies between 100 bytes and the largest."""
    whole = RunFolder.create(tmp_path, "whole")
    judge = {
        "judge": lambda student: -float(student.mean),
        "save": lambda student, path: path.write_bytes(bytes_of(student)),
    }
    wanted = start(affine, gaussian, folder=whole, **judge)
    largest = max(path.stat().st_size for path in whole.path.iterdir())
    folder = RunFolder.create(tmp_path, "parts")
    with largest_file(int(100 * (largest / 100) ** share)), pytest.raises(OSError) as caught:
        start(affine, gaussian, folder=folder, **judge)
    assert "\n" not in str(caught.value) and str(caught.value)
    assert not [name for name in contents(folder) if name.endswith(".tmp")]
    found = start(affine, gaussian, folder=folder, resume=bool(folder.states()), **judge)
    assert_equal(wanted, found)
    assert {*contents(whole)} == {*contents(folder)}


def test_a_line_that_does_not_fit_on_the_disk_is_not_half_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append("stats.jsonl", {"Progress/kimg": 1})
    with largest_file(30), pytest.raises(OSError):
        folder.append("stats.jsonl", {"Progress/kimg": 2, "Loss/auxiliary": 0.125})
    folder.append("stats.jsonl", {"Progress/kimg": 3})
    lines = (tmp_path / "stats.jsonl").read_text().splitlines()
    assert [json.loads(line)["Progress/kimg"] for line in lines] == [1, 3]


def test_a_folder_that_may_not_be_written_is_refused_by_name_before_the_run(
    affine: Any, gaussian: Any
) -> None:
    if os.name != "posix":
        pytest.skip("permissions are those of posix")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        user = os.geteuid()
        if user == 0:  # All is allowed to root.
            os.seteuid(65534)
        try:
            with pytest.raises(ValueError, match=f"run folder in {name}: Permission denied; give"):
                start(affine, gaussian, outdir=folder)
            assert list(folder.iterdir()) == []
        finally:
            os.seteuid(user)
            folder.chmod(0o755)


def test_what_a_killed_process_left_half_written_goes_when_the_run_is_continued(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path, "run")
    start(affine, gaussian, folder=folder, changes={"kimg": 0.128})
    (folder.path / ".training-state-000000.pt.0a1b2c3d.tmp").write_bytes(b"half")
    (folder.path / ".mine.tmp").write_bytes(b"not ours")
    start(affine, gaussian, folder=folder, resume=True)
    assert [path.name for path in folder.path.glob(".*")] == [".mine.tmp"]


def test_states_after_the_one_that_is_resumed_from_are_set_aside(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    changes = {"batch": 250, "tick": 1, "warmup_kimg": 0.5, "kimg": 3}
    folder = RunFolder.create(tmp_path, "run")
    start(affine, gaussian, folder=folder, changes=changes)
    older, newest = folder.states()
    whole = start(affine, gaussian, changes={**changes, "kimg": 4})
    found, state = RunFolder.to_continue(str(older), tmp_path)
    assert (found.path, state) == (folder.path, older)
    with pytest.raises(ValueError, match=r"other options \(glr"):
        start(affine, gaussian, folder=folder, resume=state, changes={**changes, "glr": 0.5})
    assert folder.states() == [older, newest]  # what is refused changes nothing
    continued = start(affine, gaussian, folder=folder, resume=state, changes={**changes, "kimg": 4})
    assert_equal(whole, continued)
    assert (folder.path / f"{newest.name}.aside").exists()
    assert [path.name for path in folder.states()] == [
        "training-state-000003.pt", "training-state-000004.pt",
    ]  # fmt: skip


def test_what_to_continue_goes_by_latest_a_folder_or_a_state(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "run")
    state = folder.write_state("000000", {"num_images": 0})
    for name, expected in (("latest", None), (folder.path, None), (tmp_path, None), (state, state)):
        found = RunFolder.to_continue(str(name), tmp_path)
        assert (found[0].path, found[1]) == (folder.path, expected)
    network = tmp_path / "network-snapshot-000001.pkl"
    network.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a network, and.* --transfer"):
        RunFolder.to_continue(str(network), tmp_path)
    for name in (tmp_path / "no.pt", tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"give latest, the folder of a run or its training-"):
            RunFolder.to_continue(str(name), tmp_path)


# Forks a process for each try, so that torch is imported once, and kills it at a random moment:
# anywhere from its start to shortly after a state that it wrote, so that all kills find it alive.
KILLER = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from refiners import RunFolder, Settings
from tests.refiners.conftest import AffineStudent, GaussianDenoiser, refine_toys

torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # imports much, once for all tries
folder, kills, kimg = RunFolder(Path(sys.argv[2])), int(sys.argv[3]), float(sys.argv[4])
settings = Settings(
    kimg=kimg, batch=16, glr=0.002, lr=0.002, warmup_kimg=0.16, rampup_kimg=0, auxiliary_steps=1,
    tick=0.16, snap=1,
)

def run(folder):
    refined = refine_toys(
        AffineStudent(-0.4, 0.3), GaussianDenoiser(0.3, 0.5), kimg=kimg, settings=settings,
        folder=folder, progress=False, save=lambda s, path: torch.save(s.state_dict(), path),
        resume=bool(folder and folder.states()), judge=lambda s: -float(s.mean),
    )
    return refined

def written():
    while True:
        try:
            return [(path.name, path.stat().st_mtime_ns) for path in folder.states()]
        except FileNotFoundError:  # the run removed an old one meanwhile
            pass

random.seed(4)
done = tries = 0
while True:
    tries += 1
    child = os.fork()
    if not child:
        sys.stdout = open(os.devnull, "w")
        refined = run(folder)
        torch.save(refined.state_dict(), folder.path / "end.pt")
        os._exit(0)
    if done < kills:
        before, until = written(), time.monotonic() + random.uniform(0, 0.3)
        early = random.random() < 0.3
        while written() == before and not (early and time.monotonic() > until):
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.008))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        break
    if status != signal.SIGKILL:
        sys.exit(f"a try ended with {status}")
    done += 1
print("kills", done, "tries", tries)
"""


@pytest.mark.parametrize(
    ("kills", "kimg"), [(3, 1.28), pytest.param(50, 16.0, marks=pytest.mark.slow)]
)
def test_a_run_that_is_killed_at_random_moments_ends_where_the_undisturbed_one_does(
    affine: Any, gaussian: Any, tmp_path: Path, kills: int, kimg: float
) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("there is no fork here")
    script = tmp_path / "killer.py"
    script.write_text(KILLER)
    folder = RunFolder.create(tmp_path, "run")
    ended = subprocess.run(
        [sys.executable, str(script), str(ROOT), str(folder.path), str(kills), str(kimg)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f"kills {kills} ")
    changes = {"kimg": kimg, "glr": 0.002, "lr": 0.002, "warmup_kimg": 0.16, "tick": 0.16}
    whole = start(affine, gaussian, changes=changes, judge=lambda student: -float(student.mean))
    found = torch.load(folder.path / "end.pt")
    for name, value in whole.state_dict().items():
        assert torch.equal(found[name], value)
    for line in (folder.path / "stats.jsonl").read_text().splitlines():
        json.loads(line)
    names = {path.name for path in folder.path.iterdir()}
    last = label(Settings(**{**SHORT, **changes}), round(kimg * 1000))
    assert {f"network-snapshot-{last}.pkl", "result.pkl", "stats.jsonl"} <= names
    assert len(folder.states()) == 2
    assert not [name for name in names if name.endswith(".tmp")]
    for path in folder.path.glob("*.p[kt]*"):
        torch.load(path)
