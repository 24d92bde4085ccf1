pytest_plugins = [
    "tests.fixtures.services",
    "tests.fixtures.api",
    "tests.fixtures.ledger",
    "tests.fixtures.vectors",
    "tests.fixtures.artifacts",
]
