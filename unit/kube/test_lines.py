from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynvol.kube.lines import LineSplitter, LineTooLong


def split(*chunks: bytes) -> list[bytes]:
    splitter = LineSplitter()
    return [line for chunk in chunks for line in splitter.feed(chunk)]


def test_a_line_may_come_in_pieces() -> None:
    assert split(b'{"a"', b":", b"1}\n", b"{}\n") == [b'{"a":1}', b"{}"]


def test_many_lines_may_come_in_one_piece() -> None:
    assert split(b"1\n2\n3\n") == [b"1", b"2", b"3"]


def test_a_line_that_is_cut_off_by_the_end_is_no_line() -> None:
    assert split(b"1\n", b'{"half":') == [b"1"]


def test_empty_lines_are_dropped() -> None:
    assert split(b"\n\n1\n\n") == [b"1"]


def test_a_line_of_many_megabytes_passes() -> None:
    chunk = b"x" * 65536
    assert [len(line) for line in split(*[chunk] * 160, b"\n")] == [160 * 65536]


def test_a_stream_without_newlines_does_not_fill_the_memory() -> None:
    splitter = LineSplitter(limit=10)
    splitter.feed(b"12345678")
    with pytest.raises(LineTooLong):
        splitter.feed(b"90a")


@given(st.lists(st.binary(max_size=8).filter(lambda b: b"\n" not in b), max_size=8), st.lists(st.integers(1, 5), min_size=1))
def test_how_the_stream_is_cut_makes_no_difference(lines: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    splitter, found, at, turn = LineSplitter(), list[bytes](), 0, 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        found += splitter.feed(stream[at : at + step])
        at, turn = at + step, turn + 1
    assert found == [line for line in lines if line]
