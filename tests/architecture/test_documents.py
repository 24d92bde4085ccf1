"""What the documentation takes from the code is what the code says now."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from vecmeter import errors
from vecmeter.http.problems import status_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "scripts/generate_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", ["docs/openapi.json", ".env.example", "docs/configuration.md", "docs/errors.md"])
def test_a_generated_document_is_up_to_date(generator: ModuleType, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    for name, value in generator._NOWHERE.items():
        monkeypatch.setenv(name, value)
    # `make openapi` writes them again.
    assert generator.generated()[path] == (ROOT / path).read_text()


def _classes(root: type[errors.VecmeterError]) -> list[type[errors.VecmeterError]]:
    return [root, *(found for child in root.__subclasses__() for found in _classes(child))]


@pytest.mark.parametrize("kind", _classes(errors.VecmeterError), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_a_code_of_its_own_and_a_line_in_the_docs(kind: type[errors.VecmeterError]) -> None:
    assert 400 <= status_of(kind) <= 599
    same = [other for other in _classes(errors.VecmeterError) if other.code == kind.code]
    assert same == [kind]
    assert f"`{kind.code}`" in (ROOT / "docs/errors.md").read_text()
    assert kind.__name__ in (errors.__doc__ or "") or kind.__name__ == "VecmeterError"


def test_links_in_the_documentation_lead_somewhere() -> None:
    broken = [
        f"{text.relative_to(ROOT)}: {target}"
        for text in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text.read_text())
        if not (text.parent / target).exists()
    ]
    assert broken == []
