"""docs/cli.md says what ``vecmeter`` does: it lists its commands and options, and its examples run and print that."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import click
import pytest

from tests.fixtures.clients import ROOT, Live, environment_for, python_of
from vecmeter_client.cli.failures import ExitCode
from vecmeter_client.cli.invocation import Invocation
from vecmeter_client.cli.program import program, run

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


class Terminal:
    """Runs a script command by command: ``vecmeter`` alone in this process, and by bash what needs a shell."""

    def __init__(self, folder: Path, variables: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.variables, self.printed = folder, variables, ""
        self._capsys = capsys

    def type(self, command: str) -> None:
        if self._needs_no_shell(command):
            self._run(command)
        else:
            self._bash(command)

    def _needs_no_shell(self, command: str) -> bool:
        unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "", command)
        # Parquet wants pyarrow, which is in another environment.
        return command.startswith("vecmeter ") and not re.search(r"[|&;<>(]|parquet", unquoted)

    def _run(self, command: str) -> None:
        _, *words = shlex.split(re.sub(r"\$([A-Z_]+)", lambda found: self.variables[found[1]], command))
        with pytest.MonkeyPatch.context() as patch, chdir(self.folder):
            for name, value in self.variables.items():
                patch.setenv(name, value)
            code = run(words)
        self.printed += "".join(self._capsys.readouterr())
        assert code == 0, self.printed

    def _bash(self, command: str) -> None:
        after = self.folder / "variables"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-ac", f"{command}\nenv -0 > {after}"],
            env=self.variables,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        self.printed += done.stdout
        assert done.returncode == 0, self.printed
        self.variables = dict(one.split("=", 1) for one in after.read_text().split("\0") if one)


def _typed(script: str) -> list[str]:
    """The commands of a script: lines, but that a text in place goes with the line before it."""
    return re.findall(r"^.*<<'END'\n(?:.*\n)*?END$|^.+$", script, re.MULTILINE)


def test_every_example_runs_and_prints_what_the_page_shows(
    live: Live, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```(sh|text)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    shown = [line for kind, content in blocks if kind == "text" for line in content.splitlines()]
    command = tmp_path / "bin" / "vecmeter"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{python_of("clients")}" -m vecmeter_client.cli "$@"\n')
    command.chmod(0o755)
    variables = environment_for(live, live.admin_key, ADMIN_KEY=live.admin_key, PYTHONPATH=str(ROOT / "sdk" / "src"))
    variables["PATH"] = f"{command.parent}:{python_of('clients').parent}:{variables['PATH']}"
    terminal = Terminal(tmp_path, variables, capsys)
    for typed in _typed("".join(content for kind, content in blocks if kind == "sh")):
        terminal.type(typed)
    assert [line for line in shown if line not in terminal.printed.splitlines()] == [], terminal.printed
