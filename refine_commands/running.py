"""How a run starts, continues and is planned; `gan` and `distill` share it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from refine_commands.pairing import EVERYWHERE
from refine_commands.recipes import warmup_for

AUTO = "auto"
OPTIONS_FILE = "training_options.json"


def settings_of(options: Mapping[str, Any], job: Any) -> Any:
    """Return refiners.Settings of a command's options; batch_gpu auto is set later.

    A warm-up that was not told is that of the run that is continued, or goes by the length.

    Raises:
        ValueError: a setting is out of its range, there is nothing to continue, or --transfer too.
    """
    from refiners import Settings

    if job.resume and job.transfer:
        raise ValueError(
            "--resume and --transfer are both given; one continues, one starts anew: choose one"
        )
    auto = options.get("batch_gpu") == AUTO
    settings = Settings(**{**options, "batch_gpu": 0} if auto else dict(options))
    if "warmup_kimg" in options:
        return settings
    warmup = warmup_to_continue(job) if job.resume else None
    if warmup is None:
        warmup = warmup_for(settings.kimg, settings.warmup_kimg)
    return replace(settings, warmup_kimg=warmup)


def warmup_to_continue(job: Any) -> float | None:
    """Return the warm-up in kimg of the run that the job continues, or None if it is not said."""
    import checkpoints
    from refiners import RunFolder

    folder, _ = RunFolder.to_continue(job.resume, job.outdir)
    written = folder.path / OPTIONS_FILE
    if not written.is_file():
        return None
    return checkpoints.read_json(written).get("warmup_kimg")


def check_running(job: Any, settings: Any, method: Any, device: str) -> None:
    """Raise ValueError where a run cannot be started as asked."""
    import torch

    from refiners.runs.boards import check_wandb
    from refiners.training.distillation import DISTILLERS, check_teacher_stays
    from refiners.training.memory_saving import check_shard_teacher
    from refiners.training.optimiser import check_zero
    from refiners.training.pieces import pieces_of
    from refiners.training.precision import check_compiler, check_device
    from refiners.training.processes import num_processes
    from refiners.training.shared_pass import check_shared_pass

    if job.wandb:
        check_wandb()
    check_device(settings, torch.device(device))
    check_shared_pass(method, settings)
    if settings.compile:
        check_compiler(torch.device(device))
    check_zero(settings, num_processes())
    if isinstance(method, tuple(DISTILLERS.values())):
        check_teacher_stays(settings)
    if settings.shard_teacher and getattr(job, "guidance_interval", EVERYWHERE) != EVERYWHERE:
        raise ValueError(
            f"--guidance-interval is {job.guidance_interval} with --shard-teacher; processes that "
            "share the teacher have to ask it equally often, and the noise that one of them draws "
            "may lie outside of the interval: leave one out"
        )
    check_shard_teacher(settings, num_processes(), torch.device(device))
    pieces_of(settings.batch, rank=0, size=num_processes(), largest=settings.batch_gpu)


def open_folder(job: Any, name: str, options: Mapping[str, Any]) -> tuple[Any, bool | Path]:
    """Return a new run folder, or that to continue, and what to resume from."""
    from refiners import RunFolder

    if job.resume:
        folder, state = RunFolder.to_continue(job.resume, job.outdir)
    else:
        folder, state = RunFolder.create(job.outdir, name), None
        folder.write_json(OPTIONS_FILE, options)
    folder.log(f"{'continuing' if job.resume else 'writing'} {folder.path}")
    return folder, state or bool(job.resume)


def take_weights(network: Any, path: str, load: Callable[[str], Any]) -> None:
    """Give a network the weights of another's file; those of a training state come later.

    Raises:
        ValueError: the file is neither, or does not fit.
        OSError: it cannot be read.
    """
    from refiners import read_state
    from refiners.training.state import check_tensors

    if state_in(path):
        read_state(Path(path))
        return
    weights = load(path).state_dict()
    check_tensors(f"the network in {path}", weights, network.state_dict())
    network.load_state_dict(weights)


def state_in(transfer: str | None) -> str | None:
    """Return what --transfer names if that is a training state."""
    return transfer if transfer is not None and transfer.endswith(".pt") else None


def boards_in(folder: Any, job: Any, options: Mapping[str, Any]) -> list[Any]:
    """Return where the statistics go beside the folder's own files."""
    from refiners.runs.boards import tensorboard, wandb_board

    boards = [tensorboard(folder.path)]
    if job.wandb:
        boards.append(wandb_board(job.wandb, folder.path, options))
    return [board for board in boards if board is not None]


def with_batch_gpu(
    options: Mapping[str, Any],
    settings: Any,
    method: Any,
    start: Callable[[Any, Any], Any],
    device: str,
) -> Any:
    """Return the settings with --batch-gpu auto measured."""
    from refiners.runs.plan import measured_batch_gpu
    from refiners.training.processes import num_processes

    if options.get("batch_gpu") != AUTO:
        return settings
    size = num_processes()
    found = measured_batch_gpu(start, method, settings, device=device, size=size)
    return replace(settings, batch_gpu=found)


def show_plan(
    options: Mapping[str, Any], start: Callable[[Any, Any], Any], method: Any, settings: Any
) -> None:
    """Print every option with its value, and what the run will take."""
    from refiners.runs.plan import plan_run
    from refiners.training.processes import rank_here

    if rank_here() == 0:
        plan = plan_run(start, method, settings)
        print(json.dumps({**options, "plan": plan}, indent=2))


def stand_in_images(teacher: Any) -> Any:
    """Return noise of the teacher's shape as a source of images: it costs what images do."""
    import torch

    from refiners import ImageSet

    r, classes = teacher.img_resolution, teacher.label_dim
    labels = torch.eye(classes)[torch.arange(100) % classes] if classes else None
    return ImageSet(torch.randn([100, teacher.img_channels, r, r]).clamp(-1, 1), labels)
