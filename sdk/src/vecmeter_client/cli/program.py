"""The command tree, and how a run of it ends."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import click

from vecmeter_client import VecmeterError, __version__
from vecmeter_client.cli.collection_commands import collections
from vecmeter_client.cli.completion_command import completion
from vecmeter_client.cli.export_command import export
from vecmeter_client.cli.failures import ExitCode, StoppedError, failure_of
from vecmeter_client.cli.files.rows import FileError
from vecmeter_client.cli.import_command import import_file
from vecmeter_client.cli.invocation import Group
from vecmeter_client.cli.key_commands import keys
from vecmeter_client.cli.maintenance_commands import maintenance
from vecmeter_client.cli.project_commands import projects
from vecmeter_client.cli.quota_commands import quotas
from vecmeter_client.cli.search_commands import recall, search
from vecmeter_client.cli.usage_commands import alerts, costs, usage


@click.group(
    cls=Group, name="vecmeter", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="vecmeter", message="%(prog)s %(version)s")
def program() -> None:
    """Vecmeter: metered vector search in your own AWS account.

    The options --url, --key, --project, --timeout and --json may stand before or after any command.
    """


for _command in (
    projects,
    keys,
    quotas,
    usage,
    costs,
    alerts,
    collections,
    import_file,
    export,
    search,
    recall,
    maintenance,
    completion,
):
    program.add_command(_command)


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code. What went wrong is told on stderr in a line, and in its fields."""
    _make_streams_usable()
    as_json = "--json" in arguments  # what cannot be parsed is told as it was asked for all the same
    try:
        result = program.main(list(arguments), prog_name="vecmeter", standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as ended:
        if isinstance(ended, SystemExit) and "_VECMETER_COMPLETE" in os.environ:
            return int(ended.code or 0)  # a word was completed
        # The reader has gone, which is how `| head` ends; the interpreter's own flush must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.PIPE_CLOSED
    except KeyboardInterrupt:
        failure = failure_of(click.Abort())
    except (StoppedError, FileError, VecmeterError, click.ClickException, click.Abort, OSError) as error:
        failure = failure_of(error)
    else:
        return result if isinstance(result, int) else ExitCode.OK
    failure.show(as_json=as_json)
    return failure.exit_code


def _make_streams_usable() -> None:
    """Those that were closed lead nowhere, and what stdout's encoding has no sign for is escaped."""
    for name, flag in (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flag), "r" if name == "stdin" else "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
