"""The quick starts of docs/clients.md run as they are printed, and print what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fixtures.clients import ROOT, Live, environment_for, python_of
from vecmeter_local.demo import PROJECT

README = (ROOT / "README.md").read_text()
PAGE = (ROOT / "docs" / "clients.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "sdk" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = ROOT / ".venv" / "bin"


@dataclass(frozen=True)
class QuickStart:
    """``code`` in a language, and what it prints; ``...`` for what differs from run to run."""

    language: str
    code: str
    shown: str


def _quick_starts() -> dict[str, QuickStart]:
    """By the heading of their section; each is followed by what it prints."""
    sections = re.split(r"^## (.+)\n", PAGE, flags=re.MULTILINE)
    found = {}
    for heading, text in zip(sections[1::2], sections[2::2], strict=True):
        if match := re.search(r"```(sh|python)\n(.*?)```\n\n```\n(.*?)```\n", text, re.DOTALL):
            found[heading] = QuickStart(*match.groups())
    return found


QUICK_STARTS = _quick_starts()
RUN_BY = [
    ("curl", "bash"),
    ("Python SDK", "ours"),
    ("Command line", "bash"),
    ("Pinecone SDK", "clients"),
    ("Pinecone SDK", "pinecone-9"),
    ("LangChain", "clients"),
]


def test_every_quick_start_is_run() -> None:
    assert {heading for heading, _ in RUN_BY} == QUICK_STARTS.keys()


@pytest.mark.parametrize("heading", QUICK_STARTS)
def test_a_quick_start_has_at_most_ten_lines(heading: str) -> None:
    assert len([line for line in QUICK_STARTS[heading].code.splitlines() if line]) <= 10


@pytest.mark.parametrize(("heading", "by"), RUN_BY)
def test_a_quick_start_prints_what_the_page_shows(live: Live, tmp_path: Path, heading: str, by: str) -> None:
    start, project = QUICK_STARTS[heading], live.project()
    commands = {"bash": ["bash", "-euc"], "ours": [str(OURS / "python"), "-c"]}
    command = commands.get(by) or [str(python_of(by)), "-c"]
    variables = environment_for(live, live.key(project), VECMETER_PROJECT=project, PYTHONPATH=str(ROOT / "sdk/src"))
    variables["PATH"] = f"{OURS}:{os.environ['PATH']}"
    done = subprocess.run(
        [*command, start.code], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(re.escape(start.shown).replace(r"\.\.\.", ".*"), done.stdout), done.stdout


def test_the_page_names_the_project_whose_keys_the_demo_prints() -> None:
    assert f"VECMETER_PROJECT={PROJECT}\n" in PAGE


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_installs_from_a_package_index_what_is_not_there(page: Path) -> None:
    assert re.findall(r"pip install [^#\n]*vecmeter.*", page.read_text()) == []


@pytest.mark.parametrize("package", re.findall(r"`([a-z-]+)` (\d[\d.]*)(?:, (\d[\d.]*))?", PAGE), ids=lambda p: p[0])
def test_the_versions_the_page_names_are_those_that_are_tested(package: tuple[str, str, str]) -> None:
    name, *versions = package
    locks = "\n".join(lock.read_text() for lock in (ROOT / "requirements").glob("*.txt"))
    for version in filter(None, versions):
        assert re.search(rf"^{name}=={re.escape(version)}\b", locks, re.MULTILINE)


# What somebody's program does with Pinecone.
PROGRAM = """
from pinecone import Pinecone, ServerlessSpec

{client}
pc.create_index(name="movies", dimension=2, metric="cosine", spec=ServerlessSpec(cloud="aws", region="us-east-1"))
movies = pc.Index("movies")
movies.upsert(vectors=[("a", [1.0, 0.0]), ("b", [0.0, 1.0])])
print(movies.query(vector=[0.9, 0.1], top_k=1).matches[0].id)
"""


@pytest.mark.parametrize("environment", ["clients", "pinecone-9"])
def test_the_change_that_the_readme_shows_is_all_that_a_program_for_pinecone_needs(
    live: Live, environment: str
) -> None:
    [change] = re.findall(r"```diff\n(.*?)```", README, re.DOTALL)
    assert len(re.findall(r"^[+-]", change, re.MULTILINE)) == 3
    after = "".join(line[1:] for line in change.splitlines(keepends=True) if not line.startswith("-"))
    key = live.key(live.project())
    here = after.replace("vm_...", key).replace("http://127.0.0.1:8000", live.url)
    assert here.count(key) == here.count(live.url) == 1
    assert _run_program(environment, here, {}) == "a\n"


@pytest.mark.parametrize("environment", ["clients", "pinecone-9"])
def test_a_program_for_pinecone_needs_no_change_where_the_environment_says_host_and_key(
    live: Live, environment: str
) -> None:
    variables = {"PINECONE_API_KEY": live.key(live.project()), "PINECONE_CONTROLLER_HOST": live.url}
    assert all(f"`{name}`" in README for name in variables)
    assert _run_program(environment, "pc = Pinecone()", variables) == "a\n"


def _run_program(environment: str, client: str, variables: dict[str, str]) -> str:
    """What the program prints, with this client in this environment."""
    command = [str(python_of(environment)), "-c", PROGRAM.format(client=client)]
    variables = {"PATH": os.environ["PATH"], "NO_PROXY": "*", **variables}
    return subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, timeout=120, check=True).stdout
