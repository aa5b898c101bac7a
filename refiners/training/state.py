"""A training state: what a run is continued from, checked whole before any of it is taken.

A wrong one changes nothing. A state may come from anyone: every tensor that is taken is a dense
copy of the dtype and shape that this run has, and every number is of its type and in its range. An
expanded tensor has one element of storage for all of its own, past which a fused step would write.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from refiners.knob import knob_of
from refiners.training.settings import Settings
from roles import Network

# A run may be made longer, reported otherwise, given other hours, and continued on another machine.
FREE = {field.name for field in fields(Settings) if knob_of(field).free_on_resume}

State = dict[str, Any]  # plain data and tensors, as torch.load(weights_only=True) gives them

# Steps of states without this number drew other noise, and had other settings.
FORMAT = 2
MOST = 2**53  # of a count, beyond which Adam's own is none
BAD_STEPS = 3  # that are not finite, in a row: one is bad luck, three a run gone wrong


@dataclass(frozen=True)
class Parts:
    """What of a run moves, by the names that a state has for it."""

    networks: Mapping[str, Network]
    optimisers: Mapping[str, torch.optim.Optimizer]


@dataclass
class Counts:
    """What a run counts.

    Attributes:
        step: steps done, warm-up included.
        rate_scale: of the learning rates.
        skipped: steps that were not finite.
        skipped_in_row: of them, the last ones.
    """

    step: int = 0
    rate_scale: float = 1.0
    skipped: int = 0
    skipped_in_row: int = 0

    def note(self, losses: dict[str, float], *, seed: int) -> dict[str, float]:
        """Count a step and return its losses, or none where they are not finite.

        Raises:
            FloatingPointError: it was the third in a row that was not, with the reason.
        """
        self.step += 1
        return self.judge(losses, self.step - 1, seed=seed)

    def judge(self, losses: dict[str, float], step: int, *, seed: int) -> dict[str, float]:
        """Return the losses of a step that was counted before, or count it among the skipped."""
        if all(map(math.isfinite, losses.values())):
            self.skipped_in_row = 0
            return losses
        self.skipped += 1
        self.skipped_in_row += 1
        if self.skipped_in_row >= BAD_STEPS:
            found = ", ".join(f"{name} {value}" for name, value in losses.items())
            raise FloatingPointError(
                f"{self.skipped_in_row} steps in a row, the last of them step {step}, are "
                f"not finite ({found}, seed {seed}); lower glr and lr, or start from the last "
                "snapshot"
            )
        return {}


def state_of(
    parts: Parts, counts: Counts, options: State, num_images: int, num_processes: int
) -> State:
    """Return the state of a run."""
    named = {**parts.networks, **parts.optimisers}
    return {
        "format": FORMAT,
        "num_images": num_images,
        "num_processes": num_processes,
        **vars(counts),
        **options,
        **{name: part.state_dict() for name, part in named.items()},
    }


def restore(
    state: State, parts: Parts, counts: Counts, options: State, num_processes: int
) -> list[str]:
    """Load networks, optimisers and counts from a state, and return what to tell of it.

    Args:
        state: what was read from a file.
        parts: of the run that wants to continue.
        counts: likewise.
        options: likewise: its settings and method, as its own state has them.
        num_processes: likewise.

    Raises:
        ValueError: an entry is missing or of another kind, or the options or networks differ. Then
            nothing has been loaded.
    """
    check_format(state)
    check_layout(state, {**vars(counts), **options, "num_images": 0, "num_processes": 0})
    check_counts(state)
    check_drift(state, options)
    networks = check_networks(state, parts.networks)
    check_layout(state, {key: {} for key in parts.optimisers})
    moments = {name: check_adam(name, state[name], o) for name, o in parts.optimisers.items()}
    for name, network in parts.networks.items():
        network.load_state_dict(networks[name])
    for name, optimiser in parts.optimisers.items():
        # Its options are this run's own, which are those of the state or it would not be here.
        mine = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": moments[name], "param_groups": mine})
    for name in vars(counts):
        setattr(counts, name, state[name])
    split = (state["num_processes"], state["settings"].get("batch_gpu"))
    here = (num_processes, options["settings"]["batch_gpu"])
    if split == here:
        return []
    return [
        "the state is of {} processes with batch_gpu {}, this run of {} with {}; its pieces draw "
        "other noise from here on".format(*split, *here)
    ]


def check_format(state: State) -> None:
    """Raise ValueError where a state is of another version of this program."""
    found = state.get("format")
    if found != FORMAT:
        raise ValueError(
            f"the state is of another version of this program (format {found}, this one writes "
            f"{FORMAT}), whose steps draw other noise; start anew, from its networks by --transfer"
        )


def check_counts(state: State) -> None:
    """Raise ValueError in one line unless what a state counts can have been counted."""
    for name in ("step", "skipped", "skipped_in_row", "num_images", "num_processes"):
        least, value = int(name == "num_processes"), state[name]
        if not least <= value < MOST:
            raise ValueError(
                f"the state's {name} is {short(value)}; it must be in {least} to {MOST - 1}"
            )
    scale = state["rate_scale"]
    if not 0 < scale <= 1:  # NaN neither
        raise ValueError(f"the state's rate_scale is {scale}; it must be above 0, at most 1")


def check_networks(
    state: State, networks: Mapping[str, Network], *, starts: Mapping[str, str] | None = None
) -> dict[str, State]:
    """Return the state of each network, as copies.

    Args:
        state: what was read from a file.
        networks: those of the run.
        starts: which network of the state is taken for one of the run, where they are not one name.

    Raises:
        ValueError: one is missing, or is another architecture's.
    """
    mine = {name: network.state_dict() for name, network in networks.items()}
    names = {name: (starts or {}).get(name, name) for name in mine}
    check_layout(state, {key: {} for key in names.values()})
    for name, theirs in names.items():
        check_tensors(f"the state's {theirs}", state[theirs], mine[name])
    return {
        name: {key: dense(state[theirs][key]) for key in mine[name]}
        for name, theirs in names.items()
    }


def check_layout(state: object, like: Mapping[str, object]) -> None:
    """Raise ValueError in one line unless the state has every entry, each of its kind.

    Args:
        state: what was read from a file.
        like: the state of the run that wants to continue.
    """
    for name, mine in like.items():
        theirs = state.get(name) if isinstance(state, Mapping) else None
        kind = Mapping if isinstance(mine, Mapping) else type(mine)
        # True is an int in Python, and no number of steps.
        if not isinstance(theirs, kind) or isinstance(theirs, bool) is not isinstance(mine, bool):
            raise ValueError(
                f"the state's {name} is {type(theirs).__name__}, not {type(mine).__name__}; "
                "give a training-state-*.pt of this program"
            )


def check_drift(state: State, like: State) -> None:
    """Raise ValueError with the differences where a state was made with other options."""
    mine, theirs = ({**s["settings"], **s["method"]} for s in (like, state))
    drift = [
        f"{k} {short(theirs.get(k))} -> {v}"
        for k, v in mine.items()
        if k not in FREE and not is_same(theirs.get(k), v)
    ]
    if drift:
        raise ValueError(f"the state was made with other options ({', '.join(drift)})")


def is_same(theirs: object, mine: object) -> bool:
    """Whether an option of a state is this run's; what a file holds may have any equality."""
    if isinstance(theirs, torch.Tensor):
        return False
    return bool(theirs == mine)


def check_tensors(what: str, theirs: Mapping[str, object], mine: Mapping[str, object]) -> None:
    """Raise ValueError naming the first tensor that is missing, is too many, or is another's."""
    for key in [*mine, *theirs]:
        a, b = _described(mine.get(key)), _described(theirs.get(key))
        if a != b:
            raise ValueError(
                f"{what} has {b} for {short(key)}, this run {a}; both have to be of the same "
                "architecture"
            )


def check_adam(name: str, theirs: State, optimiser: torch.optim.Optimizer) -> dict[int, State]:
    """Return the moments of an optimiser's state, as copies.

    Raises:
        ValueError: they are not those of these parameters.
    """
    groups, moments = theirs.get("param_groups"), theirs.get("state")
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    if not _are_groups(groups, optimiser) or not isinstance(moments, Mapping):
        raise ValueError(f"the state's {name} is not that of {len(parameters)} parameters")
    found: dict[int, State] = {}
    for i, of_parameter in moments.items():
        known = isinstance(i, int) and 0 <= i < len(parameters)
        if not known or not isinstance(of_parameter, Mapping):
            raise ValueError(f"the state's {name} has moments of no parameter, {short(repr(i))}")
        step = torch.zeros([], dtype=torch.float32)  # in which a fused Adam counts
        fitting = {"step": step, "exp_avg": parameters[i], "exp_avg_sq": parameters[i]}
        for key, like in fitting.items():
            a, b = _described(like), _described(of_parameter.get(key))
            if a != b:
                raise ValueError(f"the state's {name} has {b} for {key} of parameter {i}, not {a}")
        steps = float(of_parameter["step"])
        if not 0 <= steps < MOST:
            raise ValueError(f"the state's {name} has step {steps} for parameter {i}")
        mean, squares = of_parameter["exp_avg"], of_parameter["exp_avg_sq"]
        if not (bool(mean.isfinite().all()) and bool(((squares >= 0) & squares.isfinite()).all())):
            raise ValueError(
                f"the state's {name} has moments of parameter {i} that cannot be: NaN, infinite or "
                "squares below 0"
            )
        found[i] = {key: dense(of_parameter[key]) for key in fitting}
    return found


def _are_groups(theirs: object, optimiser: torch.optim.Optimizer) -> bool:
    """Whether a state's parameter groups are those of an optimiser, by names and counts."""
    mine = optimiser.state_dict()["param_groups"]
    if not isinstance(theirs, Sequence) or len(theirs) != len(mine):
        return False
    for group, own in zip(theirs, mine, strict=True):
        if not isinstance(group, Mapping) or group.keys() != own.keys():
            return False
        numbers = group["params"]
        if not isinstance(numbers, list) or not all(isinstance(i, int) for i in numbers):
            return False
        if numbers != own["params"]:
            return False
    return True


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy on its own storage, each element of which is one of the tensor's."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def short(value: object) -> str:
    """Return a value from a file as a message shows it: its beginning, on one line."""
    if isinstance(value, (str, int, float, type(None))):
        # Numbers of many digits take long to write out.
        return str(value)[:80] if not isinstance(value, int) or abs(value) < 10**80 else "a number"
    if isinstance(value, torch.Tensor):
        return _described(value)
    return type(value).__name__


def _described(value: object) -> str:
    """Return dtype and shape of a tensor, or what is there instead."""
    if not isinstance(value, torch.Tensor):
        return "nothing" if value is None else type(value).__name__
    if value.layout != torch.strided or value.is_meta or value.is_quantized:
        return "a tensor without plain values"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
