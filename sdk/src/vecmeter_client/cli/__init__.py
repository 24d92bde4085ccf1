"""The command ``vecmeter``; needs ``pip install 'vecmeter-client[cli]'``."""

from __future__ import annotations

import sys

_NEEDED = ("click", "tqdm")


def main() -> int:
    """Run the command of ``sys.argv``; returns its exit code (docs/cli.md)."""
    try:
        from vecmeter_client.cli.program import run  # loads click, which not every user of the SDK has
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _NEEDED:
            raise
        sys.stderr.write("vecmeter: its command line needs more packages: pip install 'vecmeter-client[cli]'\n")
        return 2
    return run(sys.argv[1:])
