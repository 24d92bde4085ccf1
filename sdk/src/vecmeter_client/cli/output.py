"""What goes to stdout: tables for people, or with ``--json`` the API's own words."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import click

from vecmeter_client import to_dict

_WIDEST_CELL = 60


@dataclass(frozen=True, slots=True)
class Output:
    is_json: bool

    def document(self, result: Any, human: str | None = None) -> None:
        """One thing: a JSON document, or ``human``, or where there is none its fields one under the other."""
        content = _plain(result)
        if self.is_json:
            click.echo(as_json(content, indent=2))
        else:
            click.echo(_fields(content) if human is None else human)

    def items(self, results: Iterable[Any], columns: Sequence[str]) -> None:
        """Many things: JSON lines as they come, or a table of the columns, whose dots lead into objects."""
        if self.is_json:
            for result in results:
                click.echo(as_json(_plain(result)))
            return
        rows = [[cell(at(_plain(result), column)) for column in columns] for result in results]
        click.echo(table([column.rpartition(".")[2] for column in columns], rows))

    def note(self, text: str) -> None:
        """For people only, on stderr."""
        if not self.is_json:
            click.echo(text, err=True)


def as_json(value: Any, indent: int | None = None) -> str:
    # Where the terminal or pipe is not in UTF-8, escapes keep it JSON.
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return json.dumps(value, ensure_ascii=not is_utf8, indent=indent)


def _plain(result: Any) -> Any:
    if isinstance(result, str | int | float | None):
        return result
    return to_dict(result)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns; numbers to the right."""
    if not rows:
        return "(none)"
    widths = [max(len(line[index]) for line in (titles, *rows)) for index in range(len(titles))]
    numeric = [all(_is_number(row[index]) for row in rows) for index in range(len(titles))]
    lines = [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in (titles, *rows)
    ]
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    return not text or text.replace(".", "", 1).replace(",", "").removeprefix("-").removesuffix(" %").isdigit()


def _fields(content: Any) -> str:
    """Names and values; a list of objects as a table of its own below."""
    if not isinstance(content, Mapping):
        return cell(content)
    tables = {name: part for name, part in content.items() if _is_list_of_objects(part)}
    plain = [[name, cell(part)] for name, part in flat(content) if name not in tables]
    width = max((len(name) for name, _ in plain), default=0)
    lines = [f"{name.ljust(width)}  {value}".rstrip() for name, value in plain]
    for name, part in tables.items():
        titles = list(dict.fromkeys(title for one in part for title in one))
        lines += ["", f"{name}:", table(titles, [[cell(one.get(title)) for title in titles] for one in part])]
    return "\n".join(lines)


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Names and values, of objects inside by their dotted names."""
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def at(content: Any, path: str) -> Any:
    for name in path.split("."):
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def cell(value: Any) -> str:
    """A value as one short line without control characters: what is stored must not move anybody's cursor."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, float):
        text = f"{value:.6f}".rstrip("0").rstrip(".") if abs(value) < 1e15 else repr(value)
    elif isinstance(value, str):
        text = value
    elif isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        text = ", ".join(value)
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    shown = visible(text)
    return shown if len(shown) <= _WIDEST_CELL else shown[: _WIDEST_CELL - 1] + "…"


def counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def visible(text: str) -> str:
    """The text with what is not printable as escapes."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
