"""``vecmeter completion``: the script that teaches a shell the commands."""

from __future__ import annotations

import os
from pathlib import PurePath

import click
from click.shell_completion import get_completion_class

from vecmeter_client.cli.failures import ExitCode, StoppedError
from vecmeter_client.cli.invocation import Command, Invocation, pass_invocation

_SHELLS = ("bash", "zsh", "fish")


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(_SHELLS), required=False)
@pass_invocation
def completion(invocation: Invocation, /, shell: str | None) -> None:
    """Print the completion script of a shell; without SHELL of the one in $SHELL.

    \b
    eval "$(vecmeter completion bash)"      # in ~/.bashrc; zsh: in ~/.zshrc
    vecmeter completion fish > ~/.config/fish/completions/vecmeter.fish
    """
    name = shell or PurePath(os.environ.get("SHELL", "")).name
    kind = get_completion_class(name) if name in _SHELLS else None
    if kind is None:
        raise StoppedError(ExitCode.USAGE, "usage", f"Which shell? Name one of {', '.join(_SHELLS)}.")
    root = click.get_current_context().find_root().command
    script = kind(root, {}, "vecmeter", "_VECMETER_COMPLETE").source()
    invocation.out.document({"shell": name, "script": script}, human=script)
