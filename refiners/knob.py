"""A knob of a method, or a setting of a run: a field of a dataclass that says what it is.

    sigma_data: float = knob(0.5, "Spread of the data.", useful="the teacher's own", above=0)

Checks, --set, --knobs, flags, their help and the tables of docs/methods.md come from it.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

Value = TypeVar("Value", bound="str | float")

KINDS: Mapping[type, tuple[type, str]] = {
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "a text"),
    bool: (bool, "True or False"),
}


@runtime_checkable
class HasFields(Protocol):
    """An instance of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


@dataclass(frozen=True)
class Knob:
    """What a field is.

    Attributes:
        meaning: what it does.
        useful: the range that has been of use: that of the published settings and of
            docs/experiments.md, or a starting point that the equations suggest.
        outside: what goes wrong beyond it.
        symbol: the paper's.
        unit: what --help names its value, where that is more than its type.
        above: the number has to be greater.
        at_least: the number has to be this or greater.
        at_most: the number has to be this or less.
        below: the number has to be less.
        allowed: the texts that it may be; empty is any.
        check: called with the value, raises ValueError.
        free_on_resume: whether a run that is continued may have another.
    """

    meaning: str = ""
    useful: str = ""
    outside: str = ""
    symbol: str = ""
    unit: str = ""
    above: float = -math.inf
    at_least: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf
    allowed: tuple[str, ...] = ()
    check: Callable[[str], object] | None = None
    free_on_resume: bool = False

    def in_one_line(self) -> str:
        """Return all of the help."""
        symbol = f"In the paper {self.symbol}." if self.symbol else ""
        useful = f"Useful: {self.useful}." if self.useful else ""
        return " ".join(filter(None, (self.meaning, symbol, useful, self.outside)))

    def refusal(self, value: str | float) -> str:
        """Return what is wrong with a value of the right kind; empty where nothing is."""
        if isinstance(value, str):
            known = not self.allowed or value in self.allowed
            return "" if known else f"allowed are {', '.join(self.allowed)}"
        limits = (
            ("finite", math.isfinite(value)),
            (f"above {self.above:g}", value > self.above),
            (f"at least {self.at_least:g}", value >= self.at_least),
            (f"at most {self.at_most:g}", value <= self.at_most),
            (f"below {self.below:g}", value < self.below),
        )
        return next((f"it must be {limit}" for limit, holds in limits if not holds), "")


def knob(
    default: Value,
    meaning: str,
    *,
    useful: str = "",
    outside: str = "",
    symbol: str = "",
    unit: str = "",
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
    allowed: tuple[str, ...] = (),
    check: Callable[[str], object] | None = None,
    free_on_resume: bool = False,
) -> Value:
    """Return a dataclass' field with this default; the rest is Knob's."""
    about = Knob(
        *(meaning, useful, outside, symbol, unit, above, at_least, at_most, below),
        *(allowed, check, free_on_resume),
    )
    return field(default=default, metadata={"knob": about})


def same_as(
    owner: type,
    name: str,
    value: Value | None = None,
) -> Value:  # pyright: ignore[reportInvalidTypeVarUse]
    """Return a field that is that of another method, with another default if one is given."""
    default: Value = getattr(owner, name) if value is None else value
    (metadata,) = (each.metadata for each in fields(owner) if each.name == name)
    return field(default=default, metadata=metadata)


def knob_of(given: Field[Value]) -> Knob:
    """Return what a field is; of one that does not say, an empty Knob."""
    return given.metadata.get("knob", Knob())


def check_knobs(values: HasFields) -> None:
    """Raise ValueError naming the first field of a frozen dataclass that cannot be."""
    for each in fields(values):
        name, value, about = each.name, getattr(values, each.name), knob_of(each)
        kind = type(each.default)
        like, words = KINDS[kind]
        if isinstance(value, bool) is not (kind is bool) or not isinstance(value, like):
            raise ValueError(f"{name} is {value!r}; it must be {words}")
        if kind is bool:
            continue
        if refusal := about.refusal(value):
            raise ValueError(f"{name} is {value!r}; {refusal}")
        if about.check is not None:
            about.check(value)
        # NumPy's numbers become Python's, as a state file holds plain data only.
        if type(value) not in (int, float, str):
            object.__setattr__(values, name, kind(value))


def parse(each: Field[Value], text: str) -> str | float:
    """Return the value of a field that a text stands for.

    Raises:
        ValueError: of no such kind.
    """
    kind = type(each.default)
    truth = {"0": False, "1": True, "false": False, "true": True}
    try:
        return truth[text.lower()] if kind is bool else kind(text)  # pyright: ignore
    except (ValueError, KeyError):
        what = "0 or 1" if kind is bool else f"a {kind.__name__}"
        raise ValueError(f"--set {each.name} is {text!r}; it must be {what}") from None


def explain(method: type) -> str:
    """Return the help on a method's knobs, with their defaults."""
    lines = []
    for each in fields(method):
        lines += [f"{each.name}={each.default}", f"    {knob_of(each).in_one_line()}"]
    return "\n".join(lines)
