"""`dynvol mount`, `dynvol umount` and `dynvol mounts`: the service's calls on a command line.

Credentials reach the service over its socket. They are read from a file, a directory, standard input or this command's environment,
as it is told, and never from its arguments, which every user of the machine can read.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from dynvol.api import names
from dynvol.service.client import CallFailed, connected
from dynvol.service.proto.dynvol.mounter import v1 as wire

Mounter = wire.MounterStub

_VARIABLES: Final = {
    names.ACCESS_KEY: "AWS_ACCESS_KEY_ID",
    names.SECRET_KEY: "AWS_SECRET_ACCESS_KEY",
    names.SESSION_TOKEN: "AWS_SESSION_TOKEN",
}
_LARGEST: Final = 1 << 20
"""Bytes of credentials, a bundle of authorities among them."""


def main(command: str, **arguments: Any) -> int:
    """The command line's `dynvol mount`, `umount` or `mounts`; returns the exit status."""
    match command:
        case "mount":
            return mount(**arguments)
        case "umount":
            return umount(**arguments)
        case _:
            return mounts(**arguments)


class Unusable(Exception):
    """What was given on the command line cannot be meant."""


def mount(
    *,
    storage: str,
    path: str,
    socket: str,
    timeout: float,
    read_only: bool,
    credentials: str,
    held: str,
    more: Sequence[str],
    **given: str,
) -> int:
    """Returns the exit status. `given` are parameters of the provider, empty where nothing was said."""
    try:
        provider, parameters = storage_of(storage, given, more=more)
        request = wire.MountRequest(
            path=path,
            provider=provider,
            parameters=parameters,
            read_only=read_only,
            credentials=read_credentials(credentials, environment=os.environ) if credentials else {},
            credentials_name=held,
        )
    except (Unusable, OSError) as problem:
        return _complain("mount", str(problem))

    async def call(mounter: Mounter) -> None:
        try:
            await mounter.mount(request, timeout=timeout)
        except TimeoutError:
            raise CallFailed("DEADLINE_EXCEEDED", await _state(mounter, path)) from None

    return _run("mount", socket, call)


def umount(*, path: str, socket: str, timeout: float) -> int:
    async def call(mounter: Mounter) -> None:
        try:
            await mounter.unmount(wire.UnmountRequest(path=path), timeout=timeout)
        except TimeoutError:
            raise CallFailed("DEADLINE_EXCEEDED", await _state(mounter, path)) from None

    return _run("umount", socket, call)


def mounts(*, socket: str, watch: bool, output: str) -> int:
    async def call(mounter: Mounter) -> None:
        if watch:
            async for event in mounter.watch():
                _print(_event_as(output, event))
            return
        found = (await mounter.list(timeout=30)).mounts
        _print(_as_json([_fields(m) for m in found]) if output == "json" else _table(found))

    return _run("mounts", socket, call)


# --- what is meant by the arguments


def storage_of(text: str, given: Mapping[str, str], *, more: Iterable[str] = ()) -> tuple[str, dict[str, str]]:
    """Provider and parameters for `s3://bucket/prefix`, or for a provider's name alone, and what else was said: `given`, and `more`
    as `key=value`. Raises Unusable."""
    parameters = {key: value for key, _, value in (entry.partition("=") for entry in more)}
    parts = urlsplit(text)
    if parts.scheme == "s3" and parts.netloc and not (parts.query or parts.fragment):
        parameters |= {"bucket": parts.netloc, "prefix": parts.path.strip("/")}
    elif not parts.path or parts.path != text or "/" in text:
        raise Unusable(
            f"{text!r} names no storage; s3://bucket and s3://bucket/prefix do, or a provider with --parameter for the rest"
        )
    parameters |= {key: value for key, value in given.items() if value}
    return parts.scheme or text, {key: value for key, value in parameters.items() if value}


def read_credentials(source: str, *, environment: Mapping[str, str]) -> dict[str, str]:
    """By key. `source` is a directory with a file for each key, as a Secret is mounted; a file, or `-` for standard input, with
    `key=value` on each line; or `env`. Raises Unusable, OSError."""
    if source == "env":
        found = {key: environment.get(variable, "") for key, variable in _VARIABLES.items()}
    elif source == "-":
        found = _lines(sys.stdin.read(_LARGEST))
    elif os.path.isdir(source):
        found = {
            file.name: file.read_text() for file in Path(source).iterdir() if file.is_file() and not file.name.startswith("..")
        }
    else:
        found = _lines(Path(source).read_text())
    found = {key: value for key, value in found.items() if value}
    if not found:
        raise Unusable(f"there are no credentials in {source}")
    return found


def _lines(text: str) -> dict[str, str]:
    """Complains of a line by its number only: what it holds may be a secret in a wrong place."""
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        key, equals, value = line.partition("=")
        if line.strip() and not equals:
            raise Unusable(f"credentials: line {number} is not key=value")
        found[key.strip()] = value.strip()
    return found


# --- calls


def _run(command: str, socket: str, call: Callable[[Mounter], Awaitable[None]]) -> int:
    async def connect_and_call() -> None:
        async with connected(socket) as mounter:
            await call(mounter)

    try:
        asyncio.run(connect_and_call())
    except CallFailed as problem:
        return _complain(command, f"{problem} ({problem.code})")
    except ValueError as problem:
        return _complain(command, str(problem))
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain once more when it closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


async def _state(mounter: Mounter, path: str) -> str:
    """For a call that took too long: what the service says of the mount, and that it goes on with it."""
    wanted = "/" + path.strip("/")
    found = next((m for m in (await mounter.list(timeout=10)).mounts if m.path == wanted), None)
    if found is None:
        return "not done in time, and by now nothing is mounted there"
    why = f": {found.message}" if found.message else ""
    return f"not done in time, and gone on with; now {_phase(found)}{why}. `dynvol mounts` shows what becomes of it"


def _complain(command: str, why: str) -> int:
    sys.stderr.write(f"dynvol {command}: {why}\n")
    return 1


# --- what is shown


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _event_as(output: str, event: wire.WatchResponse) -> str:
    if output == "json":
        if event.present is not None:
            return _as_json({"present": _fields(event.present)})
        return _as_json({"gone": event.gone} if event.gone is not None else {"synced": True})
    if event.present is not None:
        return _row(event.present)
    return f"{event.gone}  gone" if event.gone is not None else "---"


def _fields(mount: wire.Mount) -> dict[str, object]:
    return {
        "path": mount.path,
        "provider": mount.provider,
        "parameters": dict(mount.parameters),
        "readOnly": mount.read_only,
        "phase": _phase(mount),
        "reason": mount.reason,
        "message": mount.message,
        "since": mount.since,
        "restarts": mount.restarts,
    }


def _as_json(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _table(mounts: Sequence[wire.Mount]) -> str:
    rows = [("PATH", "STORAGE", "PHASE", "SINCE", "MESSAGE"), *map(_cells, mounts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _row(mount: wire.Mount) -> str:
    return "  ".join(_cells(mount)).rstrip()


def _cells(mount: wire.Mount) -> tuple[str, str, str, str, str]:
    given = mount.parameters
    storage = (
        f"s3://{'/'.join(filter(None, (given.get('bucket'), given.get('prefix'))))}" if mount.provider == "s3" else mount.provider
    )
    return mount.path, storage, _phase(mount), mount.since, mount.message


def _phase(mount: wire.Mount) -> str:
    return (mount.phase.name or "unknown").capitalize()
