"""What the public packages ask for and return has a type with a name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Package -> how many parameters and results of its functions may be Any.
ALLOWED = {
    "checkpoints": 0,
    "image_sets": 0,
    "metrics": 0,
    "refine_commands": 9,  # click hands options by name
    "refiners": 0,
    "roles": 0,
    "students": 0,
    "stylegan_ops": 0,
    "teachers": 0,
}


def is_any(node: ast.AST) -> bool:
    """Whether this is Any: by its name, as typing.Any, or so within a string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.split(".")[-1] == "Any"
    return (isinstance(node, ast.Name) and node.id == "Any") or (
        isinstance(node, ast.Attribute) and node.attr == "Any"
    )


def any_in_signatures(folder: Path) -> list[str]:
    """Every parameter and result, of every function below folder, whose annotation holds Any."""
    found = []
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            a = node.args
            parameters = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
            annotations = [(p.arg, p.annotation) for p in parameters if p]
            for name, annotation in [*annotations, ("return", node.returns)]:
                if annotation and any(map(is_any, ast.walk(annotation))):
                    found.append(f"{file.name}:{node.lineno} {node.name}: {name}")
    return found


@pytest.mark.parametrize(("package", "allowed"), ALLOWED.items())
def test_no_parameter_and_no_result_of_a_public_package_is_any(package: str, allowed: int) -> None:
    found = any_in_signatures(ROOT / package)
    assert len(found) <= allowed, found


def test_any_is_found_wherever_it_stands_in_a_signature(tmp_path: Path) -> None:
    lines = [
        "def a(x: Any, *y: int, **z: dict[str, Any]) -> None: ...",
        "class B:",
        "    async def c(self, x: 'typing.Any' = 1) -> list[typing.Any]: ...",
        "    def d(self, x: AnyStr, any: int) -> str: ...",
    ]
    (tmp_path / "a.py").write_text("\n".join(lines))
    assert [line.partition(" ")[2] for line in any_in_signatures(tmp_path)] == [
        *("a: x", "a: z", "c: x", "c: return")
    ]


@pytest.mark.parametrize("package", sorted({*ALLOWED} - {"refine_commands"}))  # ours alone
def test_type_checkers_of_others_read_our_types(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
