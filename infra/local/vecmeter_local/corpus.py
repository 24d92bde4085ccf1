"""The demo's texts: the docstrings of this Python's standard library, read from its source without importing it."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LONGEST_TEXT = 1200
"""Characters kept of a text: where most docstrings end, and few tokens."""

_NOT_DOCUMENTATION = frozenset({"dist-packages", "ensurepip", "lib2to3", "pydoc_data", "site-packages", "turtledemo"})
_TESTS = frozenset({"test", "tests"})

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Text:
    """One documented name. ``id`` is dotted, as one would import it."""

    id: str
    document: str
    metadata: dict[str, str | int]


def source_files() -> list[Path]:
    """The library's public modules, in a fixed order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return [path for path in sorted(root.rglob("*.py")) if _is_public(path.relative_to(root))]


def read_texts(files: Iterator[Path] | list[Path]) -> Iterator[Text]:
    """Every public docstring of the files; of two with one id, the first."""
    root = Path(sysconfig.get_paths()["stdlib"])
    seen: set[str] = set()
    for path in files:
        for text in _texts_of(path, _module_name(path.relative_to(root))):
            if text.id not in seen:
                seen.add(text.id)
                yield text


def _is_public(path: Path) -> bool:
    if path.parts[0] in _NOT_DOCUMENTATION or _TESTS & set(path.parts):
        return False
    return all(part.isidentifier() and part[0] != "_" for part in _module_name(path).split("."))


def _module_name(path: Path) -> str:
    parts = [*path.parts[:-1], path.stem]
    if parts[-1] == "__init__":
        parts.pop()
    # _pydatetime, _pydecimal and _pyio hold the docstrings of modules that are compiled otherwise.
    return ".".join(part.removeprefix("_py") for part in parts)


def _texts_of(path: Path, module: str) -> Iterator[Text]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, OSError):
        return
    yield from _described(tree, module, f"module {module}", "module", module)
    yield from _members(tree, module, module, inside_class=False)


def _members(parent: ast.Module | ast.ClassDef, prefix: str, module: str, *, inside_class: bool) -> Iterator[Text]:
    for node in parent.body:
        if not isinstance(node, _Definition) or node.name.startswith("_"):
            continue
        name = f"{prefix}.{node.name}"
        if isinstance(node, ast.ClassDef):
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            yield from _described(node, name, f"class {name}({bases})", "class", module)
            yield from _members(node, name, module, inside_class=True)
        else:
            kind = "method" if inside_class else "function"
            yield from _described(node, name, f"{name}({ast.unparse(node.args)})", kind, module)


def _described(node: ast.Module | _Definition, name: str, heading: str, kind: str, module: str) -> Iterator[Text]:
    docstring = ast.get_docstring(node)
    if not docstring:
        return
    metadata: dict[str, str | int] = {
        "module": module,
        "package": module.split(".", maxsplit=1)[0],
        "kind": kind,
        "line": getattr(node, "lineno", 1),
    }
    # A docstring may hold a lone surrogate or a NUL in an example; PostgreSQL's text takes neither.
    clean = docstring.encode(errors="replace").decode().replace("\0", "")
    yield Text(id=name, document=f"{heading}\n\n{clean}"[:LONGEST_TEXT].rstrip(), metadata=metadata)
