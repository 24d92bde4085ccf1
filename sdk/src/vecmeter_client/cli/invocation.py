"""What every command has: the options that are the same everywhere, and what they say."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import click

from vecmeter_client import Client, Collection, Project
from vecmeter_client.cli.output import Output

DEFAULT_TIMEOUT = 30.0


@dataclass
class Invocation:
    """The options of one run. ``project`` is the one on the command line alone: filters take no other."""

    given: dict[str, Any] = field(default_factory=dict)

    @property
    def out(self) -> Output:
        return Output(is_json=bool(self.given.get("as_json")))

    @property
    def project_option(self) -> str | None:
        """``--project`` of the command line, and not of the environment."""
        named: str | None = self.given.get("project")
        return named

    def client(self, *, max_retries: int = 3) -> Client:
        """A client, closed with the command."""
        given = self.given
        timeout = given.get("timeout", DEFAULT_TIMEOUT)
        client = Client(
            given.get("url"), given.get("key"), timeout=timeout, total_timeout=2 * timeout, max_retries=max_retries
        )
        click.get_current_context().call_on_close(client.close)
        return client

    def project(self, *, max_retries: int = 3) -> Project:
        """The project of ``--project`` or ``VECMETER_PROJECT``."""
        name = self.project_option or os.environ.get("VECMETER_PROJECT")
        if not name:
            raise click.UsageError("Which project? Give --project or set VECMETER_PROJECT.")
        return self.client(max_retries=max_retries).project(name)

    def collection(self, name: str, *, max_retries: int = 3) -> Collection:
        return self.project(max_retries=max_retries).collection(name)


pass_invocation = click.make_pass_decorator(Invocation)


def _take(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    invocation = context.ensure_object(Invocation)
    if value is not None and parameter.name is not None:
        invocation.given[parameter.name] = value


def _shared_options() -> list[click.Parameter]:
    return [
        _shared("--url", metavar="URL", help="Address of the service; else VECMETER_URL."),
        _shared(
            "--key",
            metavar="SECRET",
            help="API key; else VECMETER_API_KEY, which other users of the machine cannot see.",
        ),
        _shared("--project", metavar="ID", help="The project; else VECMETER_PROJECT."),
        _shared(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            help=f"Time for one request; {DEFAULT_TIMEOUT:g} unless given.",
        ),
        _shared(
            "--json",
            "as_json",
            flag_value=True,
            type=bool,
            is_flag=True,
            help="JSON on stdout, problems as JSON on stderr.",
        ),
    ]


def _shared(*names: str, **settings: Any) -> click.Option:
    return click.Option(names, expose_value=False, callback=_take, default=None, **settings)


class Command(click.Command):
    """A command with the shared options after its own."""

    def __init__(self, name: str | None, **settings: Any) -> None:
        settings["params"] = [*(settings.get("params") or ()), *_shared_options()]
        super().__init__(name, **settings)


class Group(click.Group):
    """A group of such commands, which takes the shared options as well."""

    command_class = Command
    group_class = type

    def __init__(self, name: str | None = None, **settings: Any) -> None:
        settings["params"] = [*(settings.get("params") or ()), *_shared_options()]
        super().__init__(name, **settings)
