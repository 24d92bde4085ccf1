"""What every test has: the fixtures, and reports that can travel between pytest's processes."""

from collections import Counter
from collections.abc import Generator

import pytest

pytest_plugins = [
    "tests.fixtures.services",
    "tests.fixtures.api",
    "tests.fixtures.ledger",
    "tests.fixtures.events",
    "tests.fixtures.vectors",
    "tests.fixtures.postgres_versions",
    "tests.fixtures.artifacts",
    "tests.fixtures.usage",
    "tests.fixtures.local_stack",
    "tests.fixtures.clients",
    "tests.fixtures.cli_runs",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of several tests with one id pytest-xdist would run a single one, in silence."""
    twice = [name for name, count in Counter(item.nodeid for item in items).items() if count > 1]
    if twice:
        raise pytest.UsageError(f"several tests are called {', '.join(twice)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Workers send reports as UTF-8, which has no lone surrogates; tests log them on purpose."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report
