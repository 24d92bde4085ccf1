"""Type checkers see the operations, written once, as methods of both clients with all their parameters and results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_strict_type_checker_knows_parameters_and_results_of_both_clients() -> None:
    command = [sys.executable, "-m", "mypy", "--warn-unused-ignores", "tests/sdk/typed_use.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
