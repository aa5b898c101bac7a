"""Statistics shown elsewhere as a run goes: TensorBoard where it is installed, W&B where asked."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from refiners.runs.session import Board


def tensorboard(folder: Path) -> Board | None:
    """Return what writes TensorBoard's event file into a folder; None where it is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def show(stats: Mapping[str, float], kimg: float) -> None:
        for name, value in stats.items():
            writer.add_scalar(name, value, global_step=round(kimg * 1000))
        writer.flush()

    return show


def check_wandb() -> None:
    """Raise ValueError unless W&B is installed."""
    if importlib.util.find_spec("wandb") is None:
        raise ValueError("--wandb needs the package wandb; pip install 'stylegan-refiner[wandb]'")


def wandb_board(project: str, folder: Path, options: Mapping[str, object]) -> Board:
    """Begin a W&B run of the folder's name and return what logs to it.

    Raises:
        ValueError: it is not installed, or does not start.
    """
    check_wandb()
    import wandb  # pyright: ignore[reportMissingImports]

    try:
        started = wandb.init(
            project=project, dir=str(folder), name=folder.name, config=dict(options)
        )
    except wandb.errors.Error as error:
        raise ValueError(
            f"W&B does not start ({error}); leave --wandb out, or set WANDB_MODE=offline"
        ) from error

    def show(stats: Mapping[str, float], kimg: float) -> None:
        started.log(dict(stats), step=round(kimg * 1000))

    return show
