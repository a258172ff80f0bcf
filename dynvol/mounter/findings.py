"""What a session itself finds of its mount, in words for the claim's author. What clients and storage say is their providers'."""

from __future__ import annotations

import signal
from typing import Final

from dynvol.api.mounts import UNFLUSHED, WantedMount
from dynvol.mount.providers.contract import Finding

from .life import SOME

CLIENT_STUCK: Final = Finding(
    "ClientStuck", "the client does not answer; if that lasts it is started again. Look at the limits of the class", lasting=False
)
STORAGE_SILENT: Final = Finding(
    "StorageSilent",
    "the storage does not answer, and a deleted pod could not end before its requests had failed; with them failed all others that "
    "waited, and files that were open. The mount is back when the storage is",
    lasting=False,
)
SERVER_SILENT: Final = Finding(
    "EndpointTimeout", "the server does not answer; what programs ask of it waits, and goes on when it is back", lasting=False
)


def faulty(error: Exception) -> Finding:
    return Finding("MounterFailed", f"the mount pod failed to set up the mount: {error}", lasting=False)


def unknown_provider(name: str) -> Finding:
    return Finding("UnknownProvider", f'this version has no storage provider "{name}"')


def credentials_awaited(whose: str) -> Finding:
    return Finding("CredentialsAwaited", f"{whose} has not reached the mount pod yet", lasting=False)


def credentials_pending(whose: str, why: Finding) -> Finding:
    message = f"the mount works with earlier credentials; those in {whose} now are not in use yet: {why.message}"
    return Finding("CredentialsPending", message, harmless=True)


def uploading(count: int) -> Finding:
    return Finding("Uploading", f"{_files(count)} still being uploaded with the earlier ones", lasting=False)


def client_slow(seconds: float) -> Finding:
    slow = f"the client did not begin to serve within {seconds:.0f} s"
    return Finding("ClientSlow", f"{slow}; it is tried again. Look at the limits of the class if this lasts", lasting=False)


def client_exited(mount: WantedMount, code: int) -> Finding:
    name = mount.parameters.get("mounter") or "the client"
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    hint = "; raise the class's memory limit if this happens again" if -code == signal.SIGKILL else ""
    return Finding("ClientExited", f"{name} {how} and is started again{hint}", lasting=False)


def files_open(seconds: float) -> Finding:
    return Finding("FilesOpen", f"a program still has files open; its access ends when it closes them, or after {seconds:.0f} s")


def unflushed(count: int, cause: Finding | None = None) -> Finding:
    """`count` files; SOME, where nobody can tell."""
    why = f": {cause.message}" if cause else ""
    message = f"{_files(count)} not in the storage yet; what is missing is kept on the node, and tried again{why}"
    return Finding(UNFLUSHED, message, lasting=cause.lasting if cause else False)


def _files(count: int) -> str:
    return "1 file is" if count == 1 else "some files may be" if count == SOME else f"{count} files are"
