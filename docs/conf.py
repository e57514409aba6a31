"""Sphinx configuration of the documentation; `make docs` builds it in strict mode."""

import ast
import dataclasses
import inspect
import io
import re
import tokenize
from typing import Any

import jaxai

project, author, copyright = "jaxai", "The jaxai authors", "The jaxai authors"  # Sphinx's name
release = version = jaxai.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "jaxai"
copybutton_prompt_text = "$ "

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 100
add_module_names = False


def field_comments(kind: type) -> dict[str, str]:
    """The comment on the line of each field that a dataclass defines itself: what `--help` prints."""
    source = inspect.cleandoc("\n" + inspect.getsource(kind))
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            found[node.target.id] = " ".join(comments[line] for line in lines if line in comments)
    return found


def add_fields(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Lists the fields of a configuration with their defaults and comments below its docstring."""
    if what != "class" or not dataclasses.is_dataclass(obj):
        return
    comments: dict[str, str] = {}
    for kind in reversed(obj.__mro__):
        if dataclasses.is_dataclass(kind) and kind.__module__.startswith("jaxai"):
            comments |= field_comments(kind)
    described = [field for field in dataclasses.fields(obj) if comments.get(field.name)]
    if described:
        lines += ["", "Fields:", ""]
    for field in described:
        simple = field.default is not dataclasses.MISSING and not dataclasses.is_dataclass(field.default)
        default = f" (default `{field.default!r}`)" if simple else ""
        lines.append(f"* `{field.name}`{default}: {comments[field.name]}")


def mark_code(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings mark code with single backticks, which reStructuredText doubles, and separates from a letter."""
    text = re.sub(r"(?<![`:\\])`([^`]+)`(?!`)([A-Za-z]?)", marked, "\n".join(lines))
    lines[:] = text.split("\n")


def marked(code: re.Match[str]) -> str:
    """A span of code as reStructuredText has it."""
    return f"``{code[1]}``" + (f"\\ {code[2]}" if code[2] else "")


def setup(app: Any) -> None:
    """Registers the hooks; those of napoleon, which reads the sections, come between them."""
    app.connect("autodoc-process-docstring", add_fields, priority=400)
    app.connect("autodoc-process-docstring", mark_code, priority=300)
