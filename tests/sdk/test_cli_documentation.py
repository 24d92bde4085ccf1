"""docs/cli.md says what ``vecmeter`` does: it lists its commands and options, and its examples run and print that."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.fixtures.clients import ROOT, Live, environment_for, python_of
from vecmeter_client.cli.failures import ExitCode
from vecmeter_client.cli.invocation import Invocation
from vecmeter_client.cli.program import program

PAGE = (ROOT / "docs/cli.md").read_text()
_SHARED = {"--url", "--key", "--project", "--timeout", "--json", "--help"}


def _commands(path: str = "vecmeter", command: click.Command = program) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, one in sorted(command.commands.items()):
            yield from _commands(f"{path} {name}", one)
    else:
        yield path, command


def _synopsis(path: str, command: click.Command) -> str:
    arguments = [one.make_metavar(click.Context(command)) for one in command.params if isinstance(one, click.Argument)]
    options = [name for one in command.params if isinstance(one, click.Option) for name in one.opts]
    shown = [f"`{name}`" for name in options if name not in _SHARED]
    return f"| `{' '.join([path, *arguments])}` | {' '.join(shown)} |"


def test_every_command_and_option_is_on_the_page_and_no_other() -> None:
    listed = PAGE.partition("<!-- commands -->\n")[2].partition("<!-- /commands -->")[0]
    wanted = ["| command | options |", "|---|---|", *(_synopsis(*one) for one in _commands())]
    assert listed.splitlines() == wanted, "\n".join(wanted)


def test_every_option_that_the_page_names_is_there() -> None:
    known = {name for _, command in _commands() for one in command.params for name in one.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) <= known | _SHARED | {"--version"}


def test_every_exit_code_is_on_the_page_and_no_other() -> None:
    table = PAGE.partition("| exit code | means |")[2]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == list(ExitCode)


def test_the_variables_are_those_that_are_read() -> None:
    assert set(re.findall(r"VECMETER_[A-Z_]+", PAGE)) == {"VECMETER_URL", "VECMETER_API_KEY", "VECMETER_PROJECT"}
    assert Invocation({"project": "p"}).project_option == "p"


@pytest.mark.timeout(600)  # some fifty processes, one after the other
def test_every_example_runs_and_prints_what_the_page_shows(live: Live, tmp_path: Path) -> None:
    blocks = re.findall(r"^```(sh|text)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    script = "\n".join(content for kind, content in blocks if kind == "sh")
    shown = [line for kind, content in blocks if kind == "text" for line in content.splitlines()]
    command = tmp_path / "bin" / "vecmeter"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{python_of("clients")}" -m vecmeter_client.cli "$@"\n')
    command.chmod(0o755)
    environment = environment_for(live, live.admin_key, ADMIN_KEY=live.admin_key, PYTHONPATH=str(ROOT / "sdk" / "src"))
    environment["PATH"] = f"{command.parent}:{python_of('clients').parent}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert [line for line in shown if line not in done.stdout.splitlines()] == [], done.stdout
