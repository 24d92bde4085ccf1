"""The command ``vecmeter-local``: the whole of Vecmeter on this machine, without Docker or an AWS account."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vecmeter_local.data_folder import DataFolder
from vecmeter_local.processes import LocalStackError

_DATA_DIR = Path(".vecmeter")
_TASK_SECONDS = 3600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 1 on a failure told in one message, 2 on wrong arguments."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except LocalStackError as error:
        print(f"vecmeter-local: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vecmeter-local", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="start the stack and keep it up until Ctrl-C")
    up.add_argument("--port", type=_port, default=8000, help="port of the API; 0 takes a free one (%(default)s)")
    up.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    _add_data_dir(up)
    up.add_argument(
        "--workers", type=_workers, default=1, metavar="N", help="processes that serve requests, 1 to 16 (%(default)s)"
    )
    up.add_argument("--no-demo", dest="demo", action="store_false", help="without the demo's keys, texts and searches")
    up.set_defaults(run=_up)

    task = commands.add_parser("task", help="run a maintenance task on the running stack")
    task.add_argument("name", metavar="NAME", help="e.g. get_index_stats, vacuum_analyze, reindex_hnsw")
    _add_data_dir(task)
    task.add_argument(
        "--option",
        metavar="KEY=VALUE",
        type=_option,
        action="append",
        default=[],
        help="an option of the task; may be given several times",
    )
    task.set_defaults(run=_task)
    return parser


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir", type=Path, default=_DATA_DIR, metavar="DIR", help="folder that keeps everything (%(default)s)"
    )


def _up(options: argparse.Namespace) -> int:
    from vecmeter.errors import SettingsError
    from vecmeter_local.stack import StackOptions, run_stack
    from vecmeter_local.stops import StopRequestedError, StopRequests

    stops = StopRequests()
    with stops.handled():
        try:
            run_stack(
                StackOptions(
                    host=options.host,
                    port=options.port,
                    data_dir=options.data_dir,
                    demo=options.demo,
                    workers=options.workers,
                ),
                stops,
            )
        except StopRequestedError:
            print("Stopped before it was up.", file=sys.stderr)
        except SettingsError as error:
            raise LocalStackError(str(error)) from None
    return 0


def _task(options: argparse.Namespace) -> int:
    import httpx

    stack = DataFolder(options.data_dir).read("stack.json")
    if stack is None:
        raise LocalStackError(f"No stack is up on {options.data_dir}; start it with 'vecmeter-local up'.")
    prefix = os.environ.get("API_PREFIX", "/v1")
    try:
        answer = httpx.post(
            f"{stack['url']}{prefix}/admin/maintenance/{options.name}",
            headers={"Authorization": f"Bearer {stack['admin_key']}"},
            json=dict(options.option),
            timeout=_TASK_SECONDS,
            trust_env=False,
        )
    except httpx.TransportError as error:
        raise LocalStackError(f"The stack at {stack['url']} does not answer: {error}") from None
    try:
        outcome = answer.json()
    except ValueError:
        raise LocalStackError(f"{stack['url']} answered {answer.status_code}: {answer.text}") from None
    print(json.dumps(outcome, indent=2))
    return 0 if answer.is_success and outcome["status"] != "error" else 1


def _port(raw: str) -> int:
    port = int(raw)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError("must lie between 0 and 65535")
    return port


def _workers(raw: str) -> int:
    workers = int(raw)
    if not 1 <= workers <= 16:
        raise argparse.ArgumentTypeError("must lie between 1 and 16")
    return workers


def _option(raw: str) -> tuple[str, Any]:
    name, separator, value = raw.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError("must read KEY=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    sys.exit(main())
