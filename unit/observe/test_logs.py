from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvol.observe import logs


@pytest.fixture(autouse=True)
def _logging_is_put_back() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    logging.captureWarnings(False)


@pytest.fixture
def text() -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level="debug", stream=stream)
    return stream


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """Filled when the JSON stream is read, that is, on every look."""

    class Lines(list[dict[str, Any]]):
        def __getitem__(self, index: Any) -> Any:
            return [json.loads(line) for line in stream.getvalue().splitlines()][index]

    stream = io.StringIO()
    logs.configure(level="debug", format="json", stream=stream)
    yield Lines()


def test_an_event_is_a_sentence_with_fields(text: io.StringIO) -> None:
    logs.get("dynvol.controllers.x").info("mounted", key="a/b", pod="web-0")
    assert text.getvalue().endswith("Z INFO controllers.x: mounted key=a/b pod=web-0\n")


def test_values_that_are_not_one_word_are_quoted(text: io.StringIO) -> None:
    logs.get("x").info("told", message='no "such" bucket', empty="", path=Path("/a b"))
    assert r'message="no \"such\" bucket" empty="" path="/a b"' in text.getvalue()


def test_fields_may_be_called_what_logging_calls_its_own(text: io.StringIO) -> None:
    logs.get("x").info("told", name="n", message="m", args="a", level="l")
    assert "name=n message=m args=a level=l" in text.getvalue()


def test_bound_fields_are_in_every_event(text: io.StringIO) -> None:
    logs.get("x").bind(node="n1").info("told", key="k")
    assert "told node=n1 key=k" in text.getvalue()


def test_extra_of_plain_logging_becomes_fields(text: io.StringIO) -> None:
    logging.getLogger("dynvol.runtime").warning("listing again, %d times", 2, extra={"informer": "pods"})
    assert "runtime: listing again, 2 times informer=pods" in text.getvalue()


def test_a_field_cannot_forge_a_second_event(text: io.StringIO) -> None:
    logs.get("x").info("told\nforged", message="a\n2026-01-01T00:00:00Z ERROR forged")
    assert len(text.getvalue().splitlines()) == 1


@pytest.mark.parametrize("format", logs.FORMATS)
def test_a_path_that_is_no_text_can_be_logged(format: str) -> None:
    stream = io.StringIO()
    logs.configure(stream=stream, format=format)
    logs.get("x").info("left in place", path=os.fsdecode(b"/a\xff"))
    assert "udcff" in stream.getvalue()


def test_a_traceback_follows_its_event(text: io.StringIO) -> None:
    try:
        raise ValueError("why")
    except ValueError:
        logs.get("x").exception("died", key="k")
    first, *rest = text.getvalue().splitlines()
    assert first.endswith("ERROR x: died key=k")
    assert rest[-1] == "ValueError: why"


def test_json_has_one_object_per_line(lines: list[dict[str, Any]]) -> None:
    logs.get("dynvol.x").info("mounted", key="a/b", count=3, ratio=0.5, paths=[Path("/a")], nothing=None)
    line = lines[0]
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "x",
        "event": "mounted",
        "key": "a/b",
        "count": 3,
        "ratio": 0.5,
        "paths": ["/a"],
        "nothing": None,
    }


def test_json_fields_do_not_displace_what_every_line_has(lines: list[dict[str, Any]]) -> None:
    logs.get("x").info("told", time="t", event="e")
    assert lines[0]["event"] == "told"
    assert (lines[0]["field_time"], lines[0]["field_event"]) == ("t", "e")


def test_json_holds_the_traceback(lines: list[dict[str, Any]]) -> None:
    logs.get("x").error("died", exc_info=ValueError("why"))
    assert lines[0]["traceback"].endswith("ValueError: why")


@pytest.mark.parametrize(
    "leak",
    [
        "Authorization: Bearer abcdefgh.ijklmnop",
        "aws_secret_access_key = hunter2-hunter2",
        'secret-access-key: "hunter2-hunter2"',
        "https://s3/b?X-Amz-Signature=hunter2hunter2&x=1",
        "token eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJodW50ZXIyIn0.aHVudGVyMg",
    ],
)
@pytest.mark.parametrize("format", logs.FORMATS)
def test_what_looks_like_a_secret_is_covered(leak: str, format: str) -> None:
    stream = io.StringIO()
    logs.configure(format=format, stream=stream)
    logs.get("x").info("a client said", text=leak)
    logs.get("x").info(leak)
    try:
        raise RuntimeError(leak)
    except RuntimeError:
        logs.get("x").exception("died")
    said = stream.getvalue()
    assert said.count(logs.COVERED) >= 3
    for secret in ("hunter2", "abcdefgh.ijklmnop", "eyJzdWIi"):
        assert secret not in said


@pytest.mark.parametrize("format", logs.FORMATS)
def test_a_field_named_like_a_secret_is_covered(format: str) -> None:
    stream = io.StringIO()
    logs.configure(format=format, stream=stream)
    logs.get("x").info("told", secret_access_key="hunter2", password=b"hunter2")
    logging.getLogger("y").info("told", extra={"session-token": "hunter2"})
    assert "hunter2" not in stream.getvalue()


@settings(deadline=None, max_examples=200)
@given(st.from_regex(logs._SECRET_TEXT, fullmatch=True, alphabet=st.characters(codec="ascii")))
def test_no_shortcut_misses_what_looks_like_a_secret(text: str) -> None:
    assert logs.cover(text) == logs._SECRET_TEXT.sub(logs._covering, text).encode(errors="backslashreplace").decode()


def test_what_was_named_as_secret_is_covered_wherever_it_shows_up(text: io.StringIO) -> None:
    logs.hide("wJalrXUtnFEMI")
    try:
        logs.get("x").info("client said", text="using wJalrXUtnFEMI now")
        logs.get("x").info("wJalrXUtnFEMI")
    finally:
        logs.reveal("wJalrXUtnFEMI")
    assert "wJalrXUtnFEMI" not in text.getvalue()
    logs.get("x").info("wJalrXUtnFEMI")
    assert "wJalrXUtnFEMI" in text.getvalue()


def test_what_is_too_short_to_be_a_secret_is_not_hidden() -> None:
    logs.hide("ab")
    assert logs.cover("cabs") == "cabs"


def test_ordinary_talk_of_secrets_is_left_alone(text: io.StringIO) -> None:
    logs.get("x").info("the Secret a/b has no key secret-access-key", secret_name="provider-s3-secret")
    assert "no key secret-access-key secret_name=provider-s3-secret" in text.getvalue()


def test_below_the_level_nothing_is_said() -> None:
    stream = io.StringIO()
    logs.configure(level="warning", stream=stream)
    logs.get("x").info("quiet")
    logs.get("x").warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_warnings_are_logged(text: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "DeprecationWarning: old" in text.getvalue()


@pytest.mark.parametrize("wrong", [{"level": "loud"}, {"format": "xml"}])
def test_an_unknown_word_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"loud|xml"):
        logs.configure(**wrong)  # type: ignore[arg-type]


def test_the_mounter_can_afford_it() -> None:
    code = (
        "import sys, dynvol.observe.logs; heavy = {'aiohttp', 'prometheus_client', 'asyncio', 'kubernetes_asyncio'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
