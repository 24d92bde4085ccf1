"""The parts of the local stack that need no service."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.local_stack import until
from vecmeter_local import scheduler as scheduler_module
from vecmeter_local.cli import main
from vecmeter_local.corpus import LONGEST_TEXT, Text, read_texts, source_files
from vecmeter_local.data_folder import DataFolder
from vecmeter_local.environment import composition_environment
from vecmeter_local.processes import LocalStackError
from vecmeter_local.scheduler import Scheduler
from vecmeter_local.server import listen, url_of


def complete(callers: dict[str, str], *, emulated: bool = True) -> dict[str, str]:
    return composition_environment(
        callers, database_url="db", dynamodb_endpoint="http://ddb", emulated=emulated, log_level="INFO"
    )


def test_a_variable_the_caller_set_wins_over_the_stacks() -> None:
    environment = complete({"TABLE_NAME": "mine", "METRICS_ENABLED": "true", "HOME": "/home/me"})
    assert environment["TABLE_NAME"] == "mine"
    assert environment["METRICS_ENABLED"] == "true"
    assert environment["HOME"] == "/home/me"
    assert environment["EMBEDDER_PROVIDER"] == "built-in"


def test_the_callers_aws_profile_never_reaches_the_emulator() -> None:
    environment = complete({"AWS_PROFILE": "expired", "AWS_REGION": "eu-west-1", "AWS_SESSION_TOKEN": "t"})
    assert "AWS_PROFILE" not in environment
    assert "AWS_SESSION_TOKEN" not in environment
    assert environment["AWS_REGION"] == "us-east-1"
    assert environment["AWS_ENDPOINT_URL_DYNAMODB"] == "http://ddb"


@pytest.mark.parametrize("emulated", [True, False])
def test_the_callers_aws_credentials_stay_where_they_are_needed(emulated: bool) -> None:
    callers = {"AWS_PROFILE": "mine", "AWS_REGION": "eu-west-1"}
    if emulated:
        callers["EMBEDDER_PROVIDER"] = "bedrock"
    environment = complete(callers, emulated=emulated)
    assert (environment["AWS_PROFILE"], environment["AWS_REGION"]) == ("mine", "eu-west-1")


@pytest.fixture(scope="module")
def texts() -> list[Text]:
    return list(read_texts(source_files()))


class TestCorpus:
    def test_it_is_the_same_each_time_and_has_several_thousand_ids_each_once(self, texts: list[Text]) -> None:
        assert len(texts) > 3000
        assert len({text.id for text in texts}) == len(texts)
        assert all(0 < len(text.document) <= LONGEST_TEXT for text in texts)
        some = source_files()[:40]
        assert list(read_texts(some)) == list(read_texts(some))

    def test_a_text_carries_its_signature_and_what_one_may_filter_by(self) -> None:
        files = [path for path in source_files() if path.name == "bisect.py"]
        by_id = {text.id: text for text in read_texts(files)}
        text = by_id["bisect.bisect_right"]
        assert text.document.startswith("bisect.bisect_right(a, x, lo=0, hi=None, *, key=None)\n\nReturn")
        assert text.metadata["module"] == "bisect"
        assert text.metadata["kind"] == "function"
        assert by_id["bisect"].metadata["kind"] == "module"

    def test_no_private_name_and_no_test_is_in_it(self, texts: list[Text]) -> None:
        names = {text.id for text in texts}
        assert not [name for name in names if any(part.startswith("_") for part in name.split("."))]
        assert not [name for name in names if name.split(".")[0] in {"test", "lib2to3"}]

    def test_a_file_that_does_not_parse_is_left_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "good.py").write_text('"""Fine."""\n')
        (tmp_path / "bad.py").write_text("def (:\n")
        monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
        assert [text.id for text in read_texts(source_files())] == ["good"]


class TestDataFolder:
    def test_a_file_is_private_and_replaced_as_a_whole(self, tmp_path: Path) -> None:
        folder = DataFolder(tmp_path)
        folder.write("keys.json", {"a": 1})
        folder.write("keys.json", {"a": 2})
        assert folder.read("keys.json") == {"a": 2}
        assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600
        assert [path.name for path in tmp_path.iterdir()] == ["keys.json"]

    def test_a_damaged_or_missing_file_reads_as_none(self, tmp_path: Path) -> None:
        (tmp_path / "keys.json").write_text("{")
        assert DataFolder(tmp_path).read("keys.json") is None
        assert DataFolder(tmp_path).read("other.json") is None

    def test_it_belongs_to_one_at_a_time_and_names_the_holder(self, tmp_path: Path) -> None:
        folder = DataFolder(tmp_path / "data")
        folder.refuse_if_held()
        assert not folder.path.exists()
        descriptor = folder.lock()
        with pytest.raises(LocalStackError, match=str(os.getpid())):
            folder.refuse_if_held()
        os.close(descriptor)
        folder.refuse_if_held()


class TestScheduler:
    def test_a_task_that_fell_due_while_the_stack_was_down_runs_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scheduler_module, "_LOOK_EVERY_SECONDS", 0.01)
        folder = DataFolder(tmp_path)
        folder.write("schedule.json", {"overdue": 0.0})
        ran: list[str] = []

        def run(name: str) -> Mapping[str, Any]:
            ran.append(name)
            return {"status": "ok"}

        scheduler = Scheduler(folder, {"overdue": 3600, "new": 3600}, run, ran.append)
        scheduler.start()
        until(lambda: bool(ran))
        scheduler.stop()
        assert ran == ["overdue"]
        last = folder.read("schedule.json")
        assert last is not None
        assert last["overdue"] > 1e9

    def test_a_task_that_fails_is_reported_and_the_others_go_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scheduler_module, "_LOOK_EVERY_SECONDS", 0.01)
        folder = DataFolder(tmp_path)
        folder.write("schedule.json", {"broken": 0.0, "fine": 0.0})
        reported: list[str] = []
        fine = threading.Event()

        def run(name: str) -> Mapping[str, Any]:
            if name == "broken":
                raise RuntimeError("no disk")
            fine.set()
            return {"status": "ok"}

        scheduler = Scheduler(folder, {"broken": 60, "fine": 60}, run, reported.append)
        scheduler.start()
        assert fine.wait(10)
        scheduler.stop()
        assert reported == ["maintenance task broken failed: no disk"]


class TestAddress:
    def test_any_address_is_shown_as_one_that_this_machine_reaches(self) -> None:
        with listen("0.0.0.0", 0) as listener:
            assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"

    def test_an_address_of_another_machine_is_a_clear_error(self) -> None:
        with pytest.raises(LocalStackError, match=r"192\.0\.2\.1"):
            listen("192.0.2.1", 0)


class TestCommandLine:
    @pytest.mark.parametrize(
        "arguments", [["up", "--port", "70000"], ["task"], ["task", "x", "--option", "novalue"], []]
    )
    def test_wrong_arguments_are_refused_with_status_2(self, arguments: list[str]) -> None:
        with pytest.raises(SystemExit) as refused:
            main(arguments)
        assert refused.value.code == 2
