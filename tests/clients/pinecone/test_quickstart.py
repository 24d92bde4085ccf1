"""A program written for Pinecone runs unchanged."""

from __future__ import annotations

import runpy
import time
from pathlib import Path

import pytest
from stack import KEY, URL

PRINTED = """\
4 4
carmilla 0.99 1872
dracula 0.99 1897
['emma']
Austen
['carmilla', 'emma', 'persuasion']
0
"""


def test_a_program_for_pinecone_runs_by_another_host_and_key_and_never_waits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PINECONE_API_KEY", KEY)
    monkeypatch.setenv("PINECONE_CONTROLLER_HOST", URL)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waited {seconds} s"))
    runpy.run_path(str(Path(__file__).with_name("quickstart.py")))
    assert capsys.readouterr().out == PRINTED
