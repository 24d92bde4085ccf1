"""The examples of docs/langchain.md, of both frameworks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "langchain.md"


@pytest.mark.parametrize("section", re.split(r"^## (?=LlamaIndex)", PAGE.read_text(), flags=re.MULTILINE))
def test_the_examples_print_what_the_page_says(section: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))
    expected = re.findall(r"^print.*  # (.*)$", code, re.MULTILINE)
    assert len(expected) >= 2
    exec(code, {})
    assert capsys.readouterr().out.splitlines() == expected
