"""What the ledger calls lost, and what it lets go."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from e2e.chaos.ledger import Ledger, Served, parsed
from e2e.chaos.writer import Mount, body, follow


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def say(ledger: Ledger, *lines: str) -> None:
    for line in lines:
        ledger.take("pod", parsed(line))


def digest(key: str, size: int) -> str:
    return hashlib.md5(body(key, size)).hexdigest()


def test_a_file_that_was_closed_must_be_there(ledger: Ledger) -> None:
    say(ledger, "1.0 try /m a#1 10", "1.1 done /m a#1 10")
    assert ledger.lost({}) == ["a: closed at 1.1 in /m, and in no bucket"]
    assert ledger.lost({"a": digest("a#1", 10)}) == []


def test_a_file_that_was_closed_just_now_may_be_on_its_way(ledger: Ledger) -> None:
    say(ledger, "1.0 try /m a#1 10", "1.1 done /m a#1 10")
    assert ledger.lost({}, before=1.1) == []
    assert len(ledger.lost({}, before=1.2)) == 1


def test_a_file_that_holds_something_else_is_lost(ledger: Ledger) -> None:
    say(ledger, "1.0 try /m a#1 10", "1.1 done /m a#1 10")
    assert ledger.lost({"a": digest("a#1", 9)}) == ["a: closed at 1.1 in /m; the bucket holds something else"]


def test_a_file_whose_close_failed_may_be_anything(ledger: Ledger) -> None:
    say(ledger, "1.0 try /m a#1 10", "1.1 failed:EIO /m a#1 10")
    assert ledger.lost({}) == ledger.lost({"a": "rubbish"}) == []


def test_a_file_that_was_written_again_may_hold_either_but_nothing_older(ledger: Ledger) -> None:
    say(ledger, "1 try /m a#1 10", "2 done /m a#1 10", "3 try /m a#2 10", "4 done /m a#2 10", "5 try /m a#3 10")
    assert ledger.lost({"a": digest("a#2", 10)}) == ledger.lost({"a": digest("a#3", 10)}) == []
    assert len(ledger.lost({"a": digest("a#1", 10)})) == 1


def test_a_file_whose_program_was_killed_while_it_wrote_it_again_may_be_there_in_part(ledger: Ledger) -> None:
    size = 10_000
    say(ledger, f"1 try /m a#1 {size}", f"2 done /m a#1 {size}", f"3 try /m a#2 {size}")
    new = body("a#2", size)
    for there in (b"", new[:4096], new[:8192], new):
        assert ledger.lost({"a": hashlib.md5(there).hexdigest()}) == []
    for elsewhere in (b"x", new[:100], body("a#1", size)[:4096], body("a#3", size)):
        assert len(ledger.lost({"a": hashlib.md5(elsewhere).hexdigest()})) == 1
    say(ledger, f"4 done /m a#2 {size}")
    assert len(ledger.lost({"a": hashlib.md5(b"").hexdigest()})) == 1


def test_what_is_proven_is_forgotten_but_for_a_sample(ledger: Ledger) -> None:
    for number in (1, 2, 10):
        say(ledger, f"{number} try /m a-{number}#{number} 10", f"{number}.5 done /m a-{number}#{number} 10")
    there = {f"a-{number}": digest(f"a-{number}#{number}", 10) for number in (1, 2, 10)}
    assert ledger.proven(there, before=2.0) == ["a-1"]
    assert ledger.proven(there, before=99.0) == ["a-2"]
    assert [line.split(":")[0] for line in ledger.lost({})] == ["a-10"]


def test_bytes_that_came_back_wrong_are_remembered(ledger: Ledger) -> None:
    say(ledger, "1 try /m a#1 10", "2 done /m a#1 10", "3 wrong:5:a#0:a#0 /m a#1 10")
    assert ledger.wrong == ["pod read 5:a#0:a#0 from /m/a after writing #1 at 3.0"]


def test_a_line_that_is_only_half_written_is_read_when_it_is_whole(ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "pod"
    file.write_text("1.0 try /m a#1 10\n1.1 do")
    ledger.catch_up()
    assert ledger.done == 0
    with file.open("a") as more:
        more.write("ne /m a#1 10\n")
    ledger.catch_up()
    assert ledger.done == 1
    assert ledger.served == {("pod", "/m"): Served(1.0, 1.1)}


def test_the_writer_says_what_it_did(tmp_path: Path) -> None:
    """The real program, on a directory in place of a mount, until that goes."""
    root, notes = tmp_path / "root", tmp_path / "notes"
    (root / "data").mkdir(parents=True)
    notes.mkdir()
    file = os.open(notes / "pod", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    mount = Mount(file, str(root / "data"), "name")
    writing = threading.Thread(target=follow, args=(mount, 0.001))
    ledger = Ledger(notes)
    writing.start()
    while ledger.done < 30:
        ledger.catch_up()
    (root / "data").rename(tmp_path / "gone")
    writing.join(timeout=30)
    os.close(file)
    ledger.catch_up()
    assert not writing.is_alive()
    found = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in (tmp_path / "gone").iterdir()}
    assert ledger.wrong == []
    assert ledger.lost(found) == []
    assert len(ledger.lost({})) == len({key for key in found}) - _never_closed(ledger)


def _never_closed(ledger: Ledger) -> int:
    """The file that was being written when the directory went, if any."""
    return sum(file.closed is None for file in ledger._files.values())
