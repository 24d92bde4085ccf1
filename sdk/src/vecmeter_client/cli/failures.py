"""How a run ends that does not end well: its exit code, and what it says on stderr."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, TypeAlias

import click

from vecmeter_client import ApiError, LimitExceededError, RequestError, VecmeterError
from vecmeter_client.cli.files.rows import FileError
from vecmeter_client.cli.output import visible


class ExitCode(IntEnum):
    OK = 0
    REFUSED = 1
    USAGE = 2
    LIMIT = 3
    UNAVAILABLE = 4
    INTERRUPTED = 130
    PIPE_CLOSED = 141


class StoppedError(Exception):
    """A command ends before it is done, for a reason of its own; ``code`` is its stable name in JSON."""

    def __init__(self, exit_code: ExitCode, code: str, detail: str, faults: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(detail)
        self.exit_code = exit_code
        self.code = code
        self.detail = detail
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Failure:
    """``faults`` are places and what is wrong there, ``notes`` what people ought to know besides.

    ``problem`` is what ``--json`` shows.
    """

    exit_code: ExitCode
    detail: str
    faults: Sequence[tuple[str, str]]
    problem: Mapping[str, Any]
    notes: Sequence[str] = ()

    def show(self, *, as_json: bool) -> None:
        if as_json:
            click.echo(json.dumps(self.problem, ensure_ascii=True), err=True)
            return
        click.echo(f"vecmeter: {visible(self.detail)}", err=True)
        for place, fault in self.faults:
            click.echo(f"  {visible(place)}: {visible(fault)}", err=True)
        for note in self.notes:
            click.echo(visible(note), err=True)


Known: TypeAlias = StoppedError | FileError | VecmeterError | click.ClickException | click.Abort | OSError


def failure_of(error: Known) -> Failure:
    match error:
        case ApiError():
            failure = _of_service(error)
        case RequestError():
            failure = _own(ExitCode.UNAVAILABLE, "no_answer", str(error))
        case VecmeterError():  # the configuration, or what was given cannot be sent
            failure = _own(ExitCode.USAGE, "invalid_input", str(error))
        case StoppedError():
            failure = _own(error.exit_code, error.code, error.detail, error.faults)
        case click.Abort():
            failure = _own(ExitCode.INTERRUPTED, "interrupted", "Interrupted.")
        case click.ClickException():
            failure = _own(ExitCode.USAGE, "usage", error.format_message())
        case FileError():
            failure = _own(ExitCode.USAGE, "file", str(error))
        case OSError():
            failure = _own(ExitCode.USAGE, "file", f"{error.filename or 'file'}: {error.strerror or error}")
    # click has an error of its own in the place of a KeyboardInterrupt.
    notes = [note for one in (error, error.__cause__) for note in getattr(one, "__notes__", ())]
    return replace(failure, notes=notes)


def _of_service(error: ApiError) -> Failure:
    if isinstance(error, LimitExceededError):
        exit_code = ExitCode.LIMIT
    else:
        exit_code = ExitCode.UNAVAILABLE if error.status >= 500 else ExitCode.REFUSED
    faults = [(violation.path, violation.message) for violation in error.violations]
    for policy in error.violated_policies:
        when = (
            f"resets at {policy.resets_at.isoformat().replace('+00:00', 'Z')}" if policy.resets_at else "does not reset"
        )
        faults.append((f"{policy.name} ({policy.scope})", f"{policy.used:g} of {policy.limit:g} used, {when}"))
    said = error.problem or {"title": error.title, "status": error.status, "detail": error.detail, "code": error.code}
    return Failure(exit_code, f"{error.title or 'HTTP'} ({error.status} {error.code}): {error.detail}", faults, said)


def _own(exit_code: ExitCode, code: str, detail: str, faults: Sequence[tuple[str, str]] = ()) -> Failure:
    problem: dict[str, Any] = {
        "type": f"urn:vecmeter:cli:{code}",
        "code": code,
        "title": _TITLES[exit_code],
        "detail": detail,
    }
    if faults:
        problem["errors"] = [{"path": place, "message": fault} for place, fault in faults]
    return Failure(exit_code, detail, faults, problem)


_TITLES: Mapping[ExitCode, str] = {
    ExitCode.REFUSED: "Refused",
    ExitCode.USAGE: "Wrong usage or file",
    ExitCode.LIMIT: "A limit is reached",
    ExitCode.UNAVAILABLE: "The service does not answer",
    ExitCode.INTERRUPTED: "Interrupted",
}
