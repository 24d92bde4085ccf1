pytest_plugins = [
    "tests.fixtures.services",
    "tests.fixtures.api",
    "tests.fixtures.ledger",
    "tests.fixtures.events",
    "tests.fixtures.vectors",
    "tests.fixtures.artifacts",
    "tests.fixtures.usage",
]
