"""A client that a generator makes from docs/openapi.json works against the running service."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.fixtures.clients import ROOT, Live, python_of, run_tests

DOCUMENT = ROOT / "docs" / "openapi.json"


def test_a_client_is_generated_without_a_warning_and_does_what_its_functions_say(live: Live, tmp_path: Path) -> None:
    generate(tmp_path / "generated_client")
    assert run_tests(live, "clients", "generated", VECMETER_GENERATED=str(tmp_path)) >= 17


def generate(package: Path) -> None:
    """Make the client as the package of this name. A warning would say that something is left out: it fails."""
    folder = python_of("clients").parent
    command = [str(folder / "openapi-python-client"), "generate", "--fail-on-warning", "--meta=none"]
    done = subprocess.run(
        [*command, f"--path={DOCUMENT}", f"--output-path={package}"],
        # It formats what it made by the ruff beside it.
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "arning" not in done.stdout + done.stderr
    made = sum(1 for file in (package / "api").glob("*/*.py") if file.name != "__init__.py")
    assert made == DOCUMENT.read_text().count('"operationId"')
