"""What all commands of ``vecmeter`` have in common: their options, their output, and how they are started."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from tests.fixtures.cli_runs import COMMAND, Cli, Place, process
from tests.fixtures.clients import environment_for
from vecmeter_client import __version__
from vecmeter_client.cli.program import program


class TestShared:
    @pytest.mark.parametrize("at", [0, 1, 2])
    def test_options_may_stand_before_or_after_any_command(self, cli: Cli, place: Place, at: int) -> None:
        arguments: list[str] = ["collections", "list"]
        arguments[at:at] = ["--json", "--project", place.project]
        assert [one["name"] for one in cli(*arguments).lines] == ["notes"]

    def test_every_command_takes_them(self) -> None:
        for path, command in commands():
            names = {name for option in command.params for name in option.opts}
            assert {"--url", "--key", "--project", "--timeout", "--json"} <= names, path

    def test_output_for_people_is_a_table_without_colours_or_control_characters(self, cli: Cli, place: Place) -> None:
        place.collection.upsert([{"id": "a\x1b[31m", "vector": [1, 1, 1], "document": "x\ny" * 99}])
        done = cli("search", "notes", "--vector", "[1, 1, 1]")
        [title, row] = done.out.splitlines()
        assert title.split() == ["id", "score", "metadata", "document"]
        assert row.startswith("a\\x1b[31m  ")
        assert "\x1b" not in done.out
        assert row.endswith("…")

    def test_the_key_is_shown_nowhere_but_when_it_is_made(self, cli: Cli, place: Place) -> None:
        for arguments in (("usage",), ("collections", "list"), ("search", "nothing", "--id", "a"), ("quotas", "own")):
            done = cli(*arguments)
            assert place.key not in done.out + done.err

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_completion_prints_a_script(self, cli: Cli, shell: str) -> None:
        assert "_VECMETER_COMPLETE" in cli("completion", shell).out
        assert cli("completion", shell, "--json").json["shell"] == shell

    def test_completion_knows_commands_and_options(self) -> None:
        complete = BashComplete(program, {}, "vecmeter", "_VECMETER_COMPLETE")
        assert {one.value for one in complete.get_completions(["collections"], "de")} == {
            "delete",
            "delete-namespace",
            "describe",
        }
        assert "--skip-invalid" in {one.value for one in complete.get_completions(["import"], "--s")}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its full name."""
    pending: list[tuple[str, click.Command]] = [("vecmeter", program)]
    while pending:
        path, command = pending.pop(0)
        if isinstance(command, click.Group):
            pending += [(f"{path} {name}", one) for name, one in command.commands.items()]
        else:
            yield path, command


class TestAsAProcess:
    def test_version_and_help(self, live: Any) -> None:
        environment = environment_for(live, "none")
        assert process("--version", environment=environment).out == f"vecmeter {__version__}\n"
        shown = process("collections", "create", "--help", environment=environment)
        assert (shown.code, "--text-search" in shown.out) == (0, True)

    def test_it_ends_with_the_code_of_its_run(self, place: Place) -> None:
        assert process("collections", "describe", "nothing", environment=place.environment()).code == 1
        assert process("collections", "delete", "notes", environment=place.environment(), input="y\n").code == 2

    def test_a_word_is_completed_as_the_shell_asks(self, live: Any) -> None:
        asked = {"_VECMETER_COMPLETE": "bash_complete", "COMP_WORDS": "vecmeter proj", "COMP_CWORD": "1"}
        done = process(environment=environment_for(live, "none") | asked)
        assert (done.code, done.out, done.err) == (0, "plain,projects\n", "")

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
    def test_what_a_terminal_has_no_sign_for_is_escaped(self, place: Place, encoding: str) -> None:
        place.collection.upsert([("漢", [1, 1, 1])])
        environment = place.environment(PYTHONIOENCODING=encoding)
        done = process("search", "notes", "--id", "漢", environment=environment)
        assert (done.code, "漢" in done.out or "\\u6f22" in done.out) == (0, True), done.err
        assert process("search", "notes", "--id", "漢", "--json", environment=environment).json["matches"]

    @pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
    def test_streams_that_are_closed_are_no_reason_to_fail(self, place: Place, closed: str) -> None:
        command = ("sh", "-c", f'{COMMAND} "$@" {closed}', "sh")
        done = process("collections", "list", environment=place.environment(), command=command)
        assert (done.code, done.err) == (0, "")
        done = process("collections", "delete", "notes", environment=place.environment(), command=command)
        assert (done.code, "Traceback" in done.err) == (2, False)

    def test_without_click_it_says_in_one_line_what_to_install(self, live: Any, tmp_path: Path) -> None:
        program = (
            "import sys; sys.modules['click'] = None; sys.argv = ['vecmeter', 'usage']; "
            "from vecmeter_client.cli import main; sys.exit(main())"
        )
        done = process("-c", program, environment=environment_for(live, "none"), command=(sys.executable,))
        assert done == replace(done, code=2, out="")
        assert done.err == "vecmeter: its command line needs more packages: pip install 'vecmeter-client[cli]'\n"

    def test_the_sdk_does_not_load_the_command_line(self) -> None:
        program = "import sys, vecmeter_client; print({'vecmeter_client.cli', 'tqdm'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout == "set()\n"

    def test_the_installed_script_is_the_command(self) -> None:
        assert Path(COMMAND).exists()
        assert CliRunner().invoke(program, ["--help"]).exit_code == 0
