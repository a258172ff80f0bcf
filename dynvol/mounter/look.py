"""Look whether the storage is there: by a request, or by a program that the provider names."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Final

import msgspec

from dynvol.mount import fuse
from dynvol.mount.providers.contract import Client, Command, Finding, Place, Request

from . import stage
from .process import Child, Children
from .tools import Tools, first

_UNUSABLE: Final = Finding("StorageRefused", "the client cannot list the storage; the mount pod's log has its words", lasting=False)
_NO_ANSWER: Final = Finding("StorageTimeout", "the storage does not answer in time; check it and the network", lasting=False)


class Cannot(Exception):
    """A program cannot be started."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


async def diagnose(client: Client, place: Place, tools: Tools) -> Finding | None:
    """What is wrong with the storage; None if nothing is, or if no one can tell. `place` is the client's own."""
    beside = msgspec.structs.replace(place, secrets=f"{place.secrets}-check")
    match client.check(beside, now=time.time()):
        case Request() as request:
            return client.judge(await tools.ask(request))
        case Command() as command:
            try:
                return await _look(client, command, beside, tools)
            except Cannot as problem:
                return problem.finding
    return None


async def _look(client: Client, command: Command, place: Place, tools: Tools) -> Finding | None:
    """Runs a program that takes a look. One that does not end in time says nothing about the storage, but for that."""
    stage.write_secrets(place.secrets, command.files)
    try:
        child = start(command, place, tools.children)
        try:
            await first(child.exited, timeout=tools.timing.look_at_storage)
            if not child.alive:
                return client.explain(child.output) or _UNUSABLE if child.exited.result() else None
            return _NO_ANSWER
        finally:
            await asyncio.shield(end(child, patience=tools.timing.leave))
    finally:
        stage.remove_secrets(place.secrets, command.files)


def start(command: Command, place: Place, children: Children) -> Child:
    """Raises Cannot."""
    device: int | None = None
    try:
        if command.takes_device:
            device = fuse.open_device(place.mountpoint, source=place.source, read_only=command.read_only)
        return children.start(command.argv, environment=command.environment, device=device)
    except OSError as error:
        finding = Finding("ClientMissing", f"{command.argv[0]} cannot be started in the mount pod: {error.strerror}")
        raise Cannot(finding) from error
    finally:
        # Once it has the only one, the kernel ends the connection with it.
        if device is not None:
            os.close(device)


async def end(child: Child, *, patience: float) -> None:
    """Ask a program to end, then make it, in `patience` seconds at most. One that hangs in the kernel may live on."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.alive:
            child.signal(number)
            if number is signal.SIGTERM:
                child.signal(signal.SIGCONT)
            await first(child.exited, timeout=patience / 2)
