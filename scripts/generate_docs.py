"""Writes what the documentation takes from the code: docs/openapi.json, .env.example and the tables between
``generated`` marks in docs/configuration.md and docs/errors.md.

    make openapi        or    .venv/bin/python scripts/generate_docs.py [--check]

``--check`` writes nothing; it lists what is out of date and fails if anything is.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# The document is made from the routes as they are served; nothing connects to what these name.
_NOWHERE = {
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def openapi_document() -> str:
    from admin_function.metrics_routes import exposition
    from admin_function.routes import router as admin
    from search_function.routes import router as search
    from upsert_function.routes import router as upsert
    from vecmeter.http.app import create_app
    from vecmeter.runtime import build_runtime
    from vecmeter.settings import Settings

    settings = Settings.from_environment({"DATABASE_URL": "postgresql://nowhere", "TABLE_NAME": "none"})
    app = create_app(build_runtime(settings), search, upsert, admin, exposition, service="docs")
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"


def environment_example() -> str:
    lines = [
        "# Every setting with its default, written by scripts/generate_docs.py; docs/configuration.md explains them.",
        "# Set DATABASE_URL or DATABASE_SECRET_ARN, and TABLE_NAME; leave out what may keep its default.",
    ]
    for setting in _settings():
        meta = setting.metadata
        value = meta["example"] if meta["example"] is not None else meta["default"]
        lines += ["", f"# {meta['help']} ({meta['parser'].accepts})", f"{setting.name.upper()}={value}"]
    return "\n".join(lines) + "\n"


def settings_table() -> str:
    rows = ["| variable | default | accepts | meaning |", "|---|---|---|---|"]
    for setting in _settings():
        meta = setting.metadata
        default = "required" if meta["default"] is None else f"`{meta['default']}`" if meta["default"] else "empty"
        meaning = meta["help"].replace("<", "&lt;")
        rows.append(f"| `{setting.name.upper()}` | {default} | {meta['parser'].accepts} | {meaning} |")
    return "\n".join(rows)


def errors_table() -> str:
    from vecmeter.http.problems import HTTP_PROBLEMS, status_of

    rows = ["| status | `code` | title | raised as |", "|---|---|---|---|"]
    found = [(status_of(kind), kind.code, kind.title, f"`{kind.__name__}`") for kind in error_classes()]
    found += [(status, code, title, "by the edge") for (status, code), title in HTTP_PROBLEMS.items()]
    rows += [f"| {status} | `{code}` | {title} | {name} |" for status, code, title, name in sorted(found)]
    return "\n".join(rows)


def error_classes() -> list[Any]:
    """Every class of the tree below its root."""
    from vecmeter.errors import VecmeterError

    def below(kind: type[VecmeterError]) -> Iterator[type[VecmeterError]]:
        for child in kind.__subclasses__():
            if child.__module__ == "vecmeter.errors":
                yield child
                yield from below(child)

    return list(below(VecmeterError))


def generated() -> Mapping[str, str]:
    """What each file should hold, by its path."""
    return {
        "docs/openapi.json": openapi_document(),
        ".env.example": environment_example(),
        "docs/configuration.md": _between_marks("docs/configuration.md", settings_table()),
        "docs/errors.md": _between_marks("docs/errors.md", errors_table()),
    }


def _settings() -> tuple[dataclasses.Field[Any], ...]:
    from vecmeter.settings import Settings

    return dataclasses.fields(Settings)


def _between_marks(path: str, table: str) -> str:
    text = (ROOT / path).read_text()
    replaced, count = re.subn(
        r"(<!-- generated -->\n).*?(<!-- /generated -->)", lambda m: f"{m[1]}{table}\n{m[2]}", text, flags=re.DOTALL
    )
    if count != 1:
        raise SystemExit(f"{path} must have one pair of marks <!-- generated --> and <!-- /generated -->")
    return replaced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if anything is out of date")
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(_NOWHERE)
    stale = []
    for path, content in generated().items():
        file = ROOT / path
        if not file.exists() or file.read_text() != content:
            stale.append(path)
            if not options.check:
                file.write_text(content)
    if stale and options.check:
        sys.exit(f"Out of date: {', '.join(stale)}. Run: make openapi")


if __name__ == "__main__":
    main()
