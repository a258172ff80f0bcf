"""Logs are events with fields: a constant sentence that can be searched for, and what it is about.

    log = logs.get(__name__)
    log.info("mounted", key=key, pod=pod)

Underneath is the standard `logging`, so that libraries, and packages of ours that may not import this one, are told in the
same way: whatever they pass as `extra` becomes fields too. Bodies and Secrets are not to be passed at all; should one slip
through, the formatters cover what looks like a secret, and what `hide` was told of.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, TextIO, TypeAlias

import msgspec

ExcInfo: TypeAlias = bool | BaseException | tuple[type[BaseException], BaseException, TracebackType | None] | None

COVERED: Final = "[redacted]"
FORMATS: Final = ("text", "json")

_FIELDS: Final = "dynvol_fields"
"""The attribute of a record that holds an event's fields: one, since `logging` forbids fields called `name` or `message`."""
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", _FIELDS}

_SECRET_KEY: Final = re.compile(r"(?i)secret[-_ ]?access|session[-_ ]?token|password|passwd|authorization")
_SECRET_TEXT: Final = re.compile(
    r"""(?ix)
    \b (?P<scheme> bearer | basic ) \s+ [\w.~+/=-]{8,}
    | \b (?P<key> (?: aws_)? (?: secret[-_]access[-_]key | session[-_]token ) | x-amz-(?: signature | security-token ) | password )
      (?P<is> "? \s* [=:] \s* "? ) [^\s&",]+
    | \b eyJ [\w-]{8,} \. [\w-]{8,} \. [\w-]*    # a JSON Web Token
    """
)
_SECRET_WORDS: Final = ("bearer", "basic", "secret", "session", "x-amz-", "password", "eyj")
"""One of them is in all that the pattern finds. To look for them takes a tenth of its time, and most texts have none."""
_hidden: set[str] = set()


class Log:
    """One module's, made by `get`. With `bind`, one that adds the same fields to each event."""

    __slots__ = ("_bound", "_logger")

    def __init__(self, logger: logging.Logger, bound: Mapping[str, object]) -> None:
        self._logger = logger
        self._bound = bound

    def bind(self, **fields: object) -> Log:
        return Log(self._logger, {**self._bound, **fields})

    def debug(self, event: str, /, *, exc_info: ExcInfo = None, **fields: object) -> None:
        self._say(logging.DEBUG, event, fields, exc_info)

    def info(self, event: str, /, *, exc_info: ExcInfo = None, **fields: object) -> None:
        self._say(logging.INFO, event, fields, exc_info)

    def warning(self, event: str, /, *, exc_info: ExcInfo = None, **fields: object) -> None:
        self._say(logging.WARNING, event, fields, exc_info)

    def error(self, event: str, /, *, exc_info: ExcInfo = None, **fields: object) -> None:
        self._say(logging.ERROR, event, fields, exc_info)

    def exception(self, event: str, /, **fields: object) -> None:
        """An error, with the traceback of the exception that is being handled."""
        self._say(logging.ERROR, event, fields, True)

    def _say(self, level: int, event: str, fields: Mapping[str, object], exc_info: ExcInfo) -> None:
        if self._logger.isEnabledFor(level):
            # Percent signs in an event are meant as they stand: without arguments, `logging` leaves them alone.
            self._logger.log(level, event, exc_info=exc_info, extra={_FIELDS: {**self._bound, **fields}}, stacklevel=3)


def get(name: str) -> Log:
    """A module's log: `get(__name__)`."""
    return Log(logging.getLogger(name), {})


def configure(*, level: str = "info", format: str = "text", stream: TextIO | None = None) -> None:
    """Sends all that is logged, and Python's warnings, to `stream` (stderr) from now on. ValueError for an unknown word."""
    if format not in FORMATS:
        raise ValueError(f"log format {format!r} is none of {', '.join(FORMATS)}")
    levels = logging.getLevelNamesMapping()
    if level.upper() not in levels:
        raise ValueError(f"log level {level!r} is none of debug, info, warning, error")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(levels[level.upper()])
    logging.captureWarnings(True)
    for library in ("aiohttp.access", "asyncio", "grpclib", "hpack"):
        logging.getLogger(library).setLevel(logging.WARNING)


def hide(secret: str) -> None:
    """Never to be printed from now on, whoever logs it. What is too short to be a secret is ignored."""
    if len(secret) >= 8:
        _hidden.add(secret)


def reveal(secret: str) -> None:
    """It is no secret any more: a key that was replaced, say."""
    _hidden.discard(secret)


def cover(text: str) -> str:
    """`text` with what is, or looks like, a secret in it covered."""
    for secret in _hidden:
        text = text.replace(secret, COVERED)
    # Beyond ASCII there are letters that pass for others where case does not count.
    if text.isascii() and not any(map(text.lower().__contains__, _SECRET_WORDS)):
        return text
    # A path that is not UTF-8 comes with lone surrogates, which no line of a log can hold.
    return _SECRET_TEXT.sub(_covering, text).encode(errors="backslashreplace").decode()


def _covering(match: re.Match[str]) -> str:
    if match["scheme"]:
        return f"{match['scheme']} {COVERED}"
    return f"{match['key']}{match['is']}{COVERED}" if match["key"] else COVERED


def fields(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """A record's fields, an event's own and those that came as `extra`; secrets covered."""
    own: Mapping[str, object] = record.__dict__.get(_FIELDS, {})
    extra = {k: v for k, v in record.__dict__.items() if k not in _STANDARD}
    for key, value in {**extra, **own}.items():
        yield key, COVERED if _SECRET_KEY.search(key) else value


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO controllers.mountpod: mounted key=a/b pod=web-0`, and a traceback on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        head = f"{_time(record)} {record.levelname} {_name(record)}: {_one_line(cover(record.getMessage()))}"
        told = "".join(f" {key}={_value(value)}" for key, value in fields(record))
        trace = _traceback(record)
        return head + told + (f"\n{trace}" if trace else "")


class JsonFormatter(logging.Formatter):
    """One object per line, for programs: `time`, `level`, `logger`, `event`, the fields, and `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": _name(record),
            "event": cover(record.getMessage()),
        }
        for key, value in fields(record):
            line[key if key not in line else f"field_{key}"] = _plain(value)
        if trace := _traceback(record):
            line["traceback"] = trace
        return msgspec.json.encode(line).decode()


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _name(record: logging.LogRecord) -> str:
    return record.name.removeprefix("dynvol.")


def _traceback(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    return cover("".join(traceback.format_exception(record.exc_info[1])).rstrip())


def _one_line(text: str) -> str:
    """Whoever's text it is, it must not look like a second event."""
    return text.strip().replace("\n", "\\n").replace("\r", "\\r")


def _value(value: object) -> str:
    """As it is where that is clear, else as a JSON string."""
    text = cover(str(value))
    clear = text.isprintable() and text and not any(c in text for c in ' "=')
    return text if clear else msgspec.json.encode(text).decode()


def _plain(value: object) -> object:
    """What JSON has as it is, anything else as its text."""
    match value:
        case bool() | int() | float() | None:
            return value
        case list() | tuple() | set() | frozenset():
            return [_plain(v) for v in value]
        case dict():
            return {str(k): _plain(v) for k, v in value.items()}
        case _:
            return cover(str(value))
