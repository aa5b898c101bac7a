"""A method is one file and one row: the programs, the help and the docs know the rest from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import Result

import students
import teachers
from refiners import DISTILLERS, REFINERS, Settings, refine
from refiners.base import Images, WithAuxiliary, WithDiscriminator, WithHead, WithMemory, WithPairs
from refiners.knob import check_knobs, knob, knob_of
from refiners.runs.recipes import method_class, method_with, methods_of

DOCS = Path(__file__).parents[2] / "docs" / "methods.md"


@dataclasses.dataclass(frozen=True)
class Toy:
    """The file of a method: it pulls each image towards grey."""

    equation: ClassVar = "p |x_0|²"
    source: ClassVar = "a test"
    init_sigma: ClassVar = 0.5
    begins: ClassVar = {"gan": {"pull": 0.25}}

    pull: float = knob(1.0, "How hard.", useful="0 to 1", outside="All is grey.", at_least=0)

    def __post_init__(self) -> None:
        check_knobs(self)

    def pixel_gradient(self, x_0: Images, labels: Any, **networks: Any) -> Images:
        return self.pull * x_0


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of the toy."""
    monkeypatch.setitem(REFINERS, "toy", Toy)


def needs_of(method: Any) -> str:
    """Return what a method takes beside student and teacher."""
    needs = [getattr(method, "needs", "")]
    if issubclass(method, WithAuxiliary):
        needs.append("auxiliary with a head" if issubclass(method, WithHead) else "auxiliary")
    if issubclass(method, WithPairs):
        needs.append("pairs (z, y) of the teacher")
    if issubclass(method, WithDiscriminator):
        needs.append("discriminator")
    if issubclass(method, (WithDiscriminator, WithHead, WithMemory)):
        needs.append("images")
    return ", ".join(filter(None, needs)) or "nothing"


def listed(values: Any) -> str:
    return "; ".join(f"{name} {value}" for name, value in values.items())


def rows_of(name: str) -> list[str]:
    """Return the lines of docs/methods.md about a method."""
    method: Any = method_class(name)
    equation = method.equation.replace("|", r"\|")
    defaults = {field.name: field.default for field in dataclasses.fields(method)}
    knobs = getattr(method, "begins", {}).get("gan", {})
    begins = listed({**knobs, **getattr(method, "settings", {})})
    return [
        f"| `{name}` | {equation} | {method.source} | {needs_of(method)} |",
        f"| `{name}` | {listed(defaults)} | {begins} | {method().init_sigma:g} |",
    ]


def missing_in(docs: str) -> list[str]:
    """Return the lines about methods that docs/methods.md lacks."""
    return [line for name in (*REFINERS, *DISTILLERS) for line in rows_of(name) if line not in docs]


def test_the_docs_say_of_every_method_what_its_file_says() -> None:
    docs = DOCS.read_text(encoding="utf-8")
    assert missing_in(docs) == []
    assert docs.count("\n| `") == 2 * len([*REFINERS, *DISTILLERS])


@pytest.mark.parametrize("name", [*REFINERS, *DISTILLERS])
def test_every_knob_says_what_it_is_and_where_it_is_of_use(
    refine_py: Callable[..., Result], name: str
) -> None:
    output = refine_py("distill", "--knobs", name).output
    for field in dataclasses.fields(method_class(name)):
        assert f"{field.name}={field.default}\n    {knob_of(field).in_one_line()}\n" in output
        assert knob_of(field).meaning and knob_of(field).useful


def test_a_method_is_taken_by_what_it_does(row: None) -> None:
    assert "toy" in methods_of("gan") and "toy" in methods_of("distill")
    assert methods_of("gan")[0] == "adversarial-moments"
    assert set(methods_of("distill")) == {*REFINERS, *DISTILLERS}
    for name in ("dmd", *DISTILLERS):
        with pytest.raises(ValueError, match="which gan cannot take; allowed are adv"):
            method_with(name, command="gan")


def test_knobs_are_set_by_value_or_by_text_on_what_the_command_begins_from(row: None) -> None:
    assert method_with("toy") == method_with("toy", command="distill") == Toy(1.0)
    assert method_with("toy", command="gan") == Toy(0.25)
    assert method_with("toy", {"pull": 2}, "gan") == method_with("toy", ["pull=2"], "gan") == Toy(2)
    for knobs, words in (
        (["push=1"], "--set is 'push=1'; toy has the knobs pull"),
        ({"push": 1}, "toy has the knobs pull"),
        (["pull"], "--set is 'pull'; toy has the knobs pull"),
        (["pull=x"], "--set pull is 'x'; it must be a float"),
        (["pull=-1"], "pull is -1.0; it must be at least 0"),
    ):
        with pytest.raises(ValueError, match=words):
            method_with("toy", knobs)
    with pytest.raises(ValueError, match=r"method is 'nose'; allowed are .*toy"):
        method_with("nose")


def test_a_toy_of_one_file_and_one_row_runs_in_both_commands_and_from_python(
    row: None, files: Path, refine_py: Callable[..., Result], tmp_path: Path
) -> None:
    tiny = (
        *("--kimg", "0.032", "--batch", "8", "--tick", "0.016", "--snap", "9", "--device", "cpu"),
        *("--keep", "last", "--metrics", "none", "--method", "toy"),
        *("--teacher", files / "teacher.pkl"),
    )
    pull = {"gan": 0.25, "distill": 1.0}
    for command, more in (("gan", ("--student", files / "gan.pkl")), ("distill", ())):
        result = refine_py(command, *tiny, *more, "--outdir", tmp_path / command)
        assert result.exit_code == 0, result.output
        (folder,) = (tmp_path / command).iterdir()
        options = json.loads((folder / "training_options.json").read_text())
        assert (options["method"], options["pull"]) == ("toy", pull[command])
        assert (folder / "report.html").is_file()
        assert options.get("init_sigma", 0.5) == 0.5
    start, teacher = students.load(files / "gan.pkl"), teachers.load(files / "teacher.pkl")
    settings = Settings(batch=8)
    refined = refine(start, teacher, method="toy", kimg=0.032, settings=settings, keep="last")
    z = start.sample_latents(16)
    assert refined(z).square().mean() < start(z).square().mean()
    assert (
        "pull=1.0\n    How hard. Useful: 0 to 1. All is grey."
        in refine_py("gan", "--knobs", "toy").output
    )
    assert missing_in(DOCS.read_text(encoding="utf-8")) == [
        "| `toy` | p \\|x_0\\|² | a test | nothing |",
        "| `toy` | pull 1.0 | pull 0.25 | 0.5 |",
    ]
