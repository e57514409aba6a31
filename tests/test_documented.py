"""Every public name is documented: read from the source, so that no function can be forgotten."""

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "jaxai").rglob("*.py"))
MANY = 3
"""Number of arguments from which on a docstring lists them."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def public_functions(file: Path) -> Iterator[tuple[str, Function]]:
    """Functions and methods without a leading underscore, those of public classes included."""

    def of(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, Function]]:
        for node in body:
            name = getattr(node, "name", "_")
            if name.startswith("_"):
                continue
            if isinstance(node, ast.ClassDef):
                yield from of(node.body, f"{prefix}{name}.")
            elif isinstance(node, Function) and not overload(node):
                yield f"{prefix}{name}", node

    yield from of(ast.parse(file.read_text()).body, "")


def overload(function: Function) -> bool:
    return any("overload" in ast.dump(each) for each in function.decorator_list)


def arguments(function: Function) -> list[str]:
    every = function.args
    names = [each.arg for each in (*every.posonlyargs, *every.args, *every.kwonlyargs)]
    # The first argument of a command is the run's, and no option.
    return [name for name in names if name not in ("self", "cls", "bound")]


def raises(function: Function) -> bool:
    """Whether the function itself, and no other inside of it, raises what a user may see."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Function | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(raised, ast.Name) and raised.id.endswith(("Error", "Exception")):
                return True
        waiting.extend(ast.iter_child_nodes(node))
    return False


def faults(function: Function) -> Iterator[str]:
    text = ast.get_docstring(function) or ""
    if not text:
        yield "no docstring"
    if len(arguments(function)) >= MANY:
        entries = re.findall(r"^ *([\w*, ]+)(?: \([^)]*\))?:", text.partition("Args:")[2], re.MULTILINE)
        listed = {name.strip(" *") for entry in entries for name in entry.split(",")}
        if missing := [name for name in arguments(function) if name not in listed]:
            yield f"Args lacks {', '.join(missing)}"
    if raises(function) and not re.search(r"\braises\b", text, re.IGNORECASE):
        yield "raises, and does not say what"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_docstrings_list_arguments_and_what_is_raised(file: Path) -> None:
    found = [f"{name}: {fault}" for name, function in public_functions(file) for fault in faults(function)]
    assert found == []


def exported() -> Iterator[tuple[str, list[str]]]:
    for file in FILES:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                yield module_of(file), ast.literal_eval(node.value)


def test_every_package_has_its_place_in_the_api_pages() -> None:
    pages = "\n".join(page.read_text() for page in sorted((ROOT / "docs" / "api").glob("*.md")))
    documented = set(re.findall(r"automodule:: ([\w.]+)", pages))
    packages = {module_of(file) for file in FILES if file.name == "__init__.py"}
    rooms = {"jaxai.experiments", "jaxai.files", "jaxai.runtime"}  # whose modules have pages, or are not for users
    assert packages - rooms <= documented
    assert documented <= {module for module, _ in exported()}, "a page shows the names of __all__"


@pytest.mark.parametrize(("module", "names"), list(exported()))
def test_exported_names_exist_and_have_docstrings(module: str, names: list[str]) -> None:
    loaded = importlib.import_module(module)
    assert len(names) == len(set(names))
    for name in names:
        value = getattr(loaded, name)
        if callable(value) and getattr(value, "__module__", "").startswith("jaxai"):
            assert value.__doc__, f"{module}.{name}"


@pytest.mark.parametrize("module", [module_of(file) for file in FILES if re.search(r"^ *>>> ", file.read_text(), re.M)])
def test_examples_in_docstrings_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed
