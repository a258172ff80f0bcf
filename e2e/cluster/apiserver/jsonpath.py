"""The part of JSONPath that printer columns and selectable fields use: fields, indices, `[*]` and one equality filter.

.spec.mountpoint   .metadata.labels['a/b']   .status.pods[0].phase   .status.conditions[?(@.type=="Ready")].status
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator

from e2e.cluster.apiserver.status import Json

Step = Callable[[Json], Iterable[Json]]

_TOKEN = re.compile(
    r"""
      \.(?P<field>[A-Za-z0-9_\-]+(?:\\\.[A-Za-z0-9_\-/]+)*)
    | \[['"](?P<quoted>[^'"]+)['"]\]
    | \[(?P<index>-?\d+)\]
    | (?P<all>\[\*\])
    | \[\?\(@\.(?P<key>[^=!<>\s)]+)\s*==\s*(?P<value>"[^"]*"|'[^']*'|[^)]+)\)\]
    """,
    re.VERBOSE,
)


def find(document: Json, path: str) -> list[Json]:
    """All values that the path leads to; none where it leads nowhere."""
    values = [document]
    for step in _steps(path):
        values = [found for value in values for found in step(value)]
    return values


@functools.lru_cache(maxsize=512)
def _steps(path: str) -> tuple[Step, ...]:
    return tuple(_parsed(path))


def _parsed(path: str) -> Iterator[Step]:
    text = path.strip().removeprefix("{").removesuffix("}").removeprefix("$")
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"unsupported JSONPath: {path!r}, at {text[at:]!r}")
        at = match.end()
        yield _step(match)


def _step(match: re.Match[str]) -> Step:
    if (name := match["field"] or match["quoted"]) is not None:
        name = name.replace("\\.", ".")
        return lambda value: [value[name]] if isinstance(value, dict) and name in value else []
    if match["index"] is not None:
        index = int(match["index"])
        return lambda value: value[index:][:1] if isinstance(value, list) else []
    if match["all"]:
        return lambda value: value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []
    key, wanted = match["key"], match["value"].strip().strip("\"'")
    return lambda value: [item for item in value if _text(item, key) == wanted] if isinstance(value, list) else []


def _text(item: Json, key: str) -> str | None:
    value = item.get(key) if isinstance(item, dict) else None
    return str(value).lower() if isinstance(value, bool) else None if value is None else str(value)
