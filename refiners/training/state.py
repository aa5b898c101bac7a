"""A training state is checked whole before any of it is taken: a wrong one changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

# A run may be made longer, reported otherwise, given other hours, and continued on another machine.
FREE = (
    *("kimg", "tick", "snap", "max_hours", "stop_if", "batch_gpu"),
    *("compile", "cuda_graphs", "activation_checkpointing"),
    *("offload_teacher", "shard_teacher", "zero"),
)


def restore(state: Any, like: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Load networks and optimisers from a state.

    Args:
        state: what was read from a file.
        like: the state of the run that wants to continue; its optimisers may be empty.
        parts: networks and, named *_adam, optimisers, by their names in the state.

    Raises:
        ValueError: an entry is missing or of another kind, or the options or networks differ. Then
            nothing has been loaded.
    """
    check_layout(state, like)
    check_drift(state, like)
    for name, part in parts.items():
        if name.endswith("_adam"):
            check_adam(name, state[name], part)
        else:
            check_tensors(f"the state's {name}", state[name], like[name])
    for name, part in parts.items():
        part.load_state_dict(state[name])


def layout_of(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what restore compares of these: the networks' states, and that there are optimisers.

    Of an optimiser each process may hold a share alone.
    """
    return {k: {} if k.endswith("_adam") else part.state_dict() for k, part in parts.items()}


def check_layout(state: Any, like: Mapping[str, Any]) -> None:
    """Raise ValueError in one line unless the state has every entry, each of its kind.

    Args:
        state: what was read from a file.
        like: the state of the run that wants to continue.
    """
    for name, mine in like.items():
        theirs = state.get(name) if isinstance(state, Mapping) else None
        if not isinstance(theirs, Mapping if isinstance(mine, Mapping) else type(mine)):
            raise ValueError(
                f"the state's {name} is {type(theirs).__name__}, not {type(mine).__name__}; "
                "give a training-state-*.pt of this program"
            )


def check_drift(state: Mapping[str, Any], like: Mapping[str, Any]) -> None:
    """Raise ValueError with the differences where a state was made with other options."""
    mine, theirs = ({**s["settings"], **s["method"]} for s in (like, state))
    drift = [f"{k} {theirs.get(k)} -> {v}" for k, v in mine.items() if theirs.get(k) != v]
    drift = [line for line in drift if line.split()[0] not in FREE]
    if drift:
        raise ValueError(f"the state was made with other options ({', '.join(drift)})")


def check_tensors(what: str, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raise ValueError naming the first tensor that is missing, is too many, or is another's."""
    for key in [*mine, *theirs]:
        a, b = _described(mine.get(key)), _described(theirs.get(key))
        if a != b:
            raise ValueError(
                f"{what} has {b} for {key}, this run {a}; both have to be of the same architecture"
            )


def check_adam(name: str, theirs: Mapping[str, Any], optimiser: torch.optim.Optimizer) -> None:
    """Raise ValueError unless an optimiser's state is that of these parameters."""
    groups = theirs.get("param_groups")
    moments = theirs.get("state")
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    whole = (
        isinstance(groups, Sequence)
        and len(groups) == len(optimiser.param_groups)
        and all(
            isinstance(group, Mapping) and group.keys() == mine.keys()
            for group, mine in zip(groups, optimiser.param_groups, strict=True)
        )
        and [i for group in groups for i in group["params"]] == list(range(len(parameters)))
    )
    if not whole or not isinstance(moments, Mapping):
        raise ValueError(f"the state's {name} is not that of {len(parameters)} parameters")
    for i, of_parameter in moments.items():
        known = isinstance(i, int) and 0 <= i < len(parameters)
        if not known or not isinstance(of_parameter, Mapping):
            raise ValueError(f"the state's {name} has moments of no parameter, {i!r}")
        fitting = {"step": None, "exp_avg": parameters[i], "exp_avg_sq": parameters[i]}
        for key, parameter in fitting.items():
            tensor = of_parameter.get(key)
            shape = [] if parameter is None else list(parameter.shape)
            if not isinstance(tensor, torch.Tensor) or list(tensor.shape) != shape:
                raise ValueError(
                    f"the state's {name} has {_described(tensor)} for {key} of parameter {i}, "
                    f"this run {shape}"
                )


def _described(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return "nothing" if value is None else type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
