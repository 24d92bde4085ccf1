"""The journal of the local ledger: what was appended is read again, in order, and nothing that is not whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecmeter_local.journal import Journal, Request

TEXTS = st.text(max_size=40)
REQUESTS = st.builds(Request, TEXTS, TEXTS, TEXTS, TEXTS)


def request(body: str) -> Request:
    return Request("000000000000", "us-east-1", "DynamoDB_20120810.PutItem", body)


def last_file(folder: Path) -> Path:
    return max(folder.glob("journal.*"), key=lambda path: int(path.suffix[1:]))


@given(st.lists(REQUESTS | st.none(), max_size=20))
def test_what_was_appended_is_read_in_order_across_files(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Request | None]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder)
    for step in steps:
        if step is None:
            journal.turn()
        else:
            journal.append(step)
    assert list(Journal(folder).since(0)) == [step for step in steps if step is not None]


def test_a_saved_state_is_followed_by_what_came_after_it_only(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(request("before"))
    generation = journal.turn()
    journal.append(request("after"))
    assert list(journal.since(generation)) == [request("after")]
    journal.forget_before(generation)
    assert list(journal.since(0)) == [request("after")]


def test_a_line_that_a_crash_cut_off_is_left_out_and_what_follows_it_is_not_lost(tmp_path: Path) -> None:
    Journal(tmp_path).append(request("whole"))
    with last_file(tmp_path).open("ab") as file:
        file.write(b'{"account": "0000')
    journal = Journal(tmp_path)
    journal.append(request("later"))
    assert list(Journal(tmp_path).since(0)) == [request("whole"), request("later")]


def test_a_request_without_room_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, write = Journal(tmp_path), os.write
    journal.append(request("kept"))

    def half(file: int, data: bytes) -> int:
        if len(data) < 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space left"):
        journal.append(request("too much"))
    monkeypatch.undo()
    journal.append(request("later"))
    assert list(Journal(tmp_path).since(0)) == [request("kept"), request("later")]
