"""Parameters that several commands take, and their types."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from vecmeter_client.cli.failures import ExitCode, StoppedError
from vecmeter_client.cli.files.rows import parse_json

Function = TypeVar("Function", bound=Callable[..., Any])


def json_object(text: str) -> dict[str, Any]:
    try:
        found = parse_json(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if not isinstance(found, dict):
        raise click.BadParameter("is not a JSON object")
    return found


def numbers(text: str) -> str | list[float]:
    """A JSON list of numbers, or base64, which the service checks."""
    if not text.lstrip().startswith("["):
        return text
    try:
        found: list[float] = parse_json(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if not set(map(type, found)) <= {int, float}:
        raise click.BadParameter("is not a JSON list of numbers")
    return found


def assignment(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``: a value that is JSON is read as such, ``none`` as null, all else as text."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise click.BadParameter(f"{text!r} must read NAME=VALUE")
    if value == "none":
        return name, None
    try:
        return name, parse_json(value)
    except ValueError:
        return name, value


def comma_separated(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if "" in names:
        raise click.BadParameter(f"{text!r} has an empty name in it")
    return names


def named_once(assignments: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Raises click.UsageError for a name that is given twice."""
    names = [name for name, _ in assignments]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise click.UsageError(f"Given more than once: {', '.join(twice)}.")
    return dict(assignments)


def namespace_option(function: Function) -> Function:
    return click.option("--namespace", default="", metavar="NAME", help="The namespace; else the default one.")(
        function
    )


def filter_option(function: Function) -> Function:
    return click.option(
        "--filter", "condition", type=json_object, metavar="JSON", help='Of the metadata: \'{"kind": "invoice"}\'.'
    )(function)


def yes_option(function: Function) -> Function:
    return click.option("--yes", is_flag=True, help="Do not ask.")(function)


def key_id_option(function: Function) -> Function:
    return click.option("--key-id", metavar="ID", help="Only this API key (its id, not its secret).")(function)


def owner_option(function: Function) -> Function:
    return click.option("--user", metavar="ID", help="Only what this user owns.")(function)


def hours_option(function: Function) -> Function:
    hours = click.option("--hours", type=click.IntRange(min=1), default=24, show_default=True, help="How far back.")
    return hours(function)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before what cannot be undone. Raises StoppedError if nobody agrees, or nobody is there to be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise StoppedError(ExitCode.USAGE, "not_confirmed", f"{question} There is no terminal to ask: say --yes.")
    if not click.confirm(question, err=True):
        raise StoppedError(ExitCode.REFUSED, "not_confirmed", "Nothing was done.")
