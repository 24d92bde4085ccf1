"""The examples of docs/langchain.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "langchain.md"


def test_the_examples_print_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text().partition("\n## LlamaIndex")[0], re.DOTALL)
    assert len(blocks) == 2
    exec("\n".join(blocks), {})
    expected = [found for block in blocks for found in re.findall(r"^print.*  # (.*)$", block, re.MULTILINE)]
    assert capsys.readouterr().out.splitlines() == expected
