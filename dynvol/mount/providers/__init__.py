"""Storage providers: how one claim becomes a mount.

`contract` has the Protocol that each provider keeps, `options` the allow-lists for what users may set. A provider is pure: it
says which program to run with which files, which request shows whether the storage is there, and what an answer means. Running
programs, sending requests and mounting are the mounter's. So the webhook and the controllers can ask `validate` of every
provider without a process, a socket or a heavy import.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from dynvol.api import names

from .contract import Provider

NAMES: Final = (names.NFS, names.PVC, "rclone", "s3")
"""Our own."""
ENTRY_POINTS: Final = "dynvol.providers"
"""The group under which other distributions register theirs: `name = "package.module:Class"`, made without arguments."""


def provider(name: str) -> Provider | None:
    """The provider of that name, None if there is none. Imported when first asked for."""
    match name:
        case "s3":
            from .s3 import S3

            return S3()
        case "rclone":
            from .rclone import Rclone

            return Rclone()
        case names.NFS:
            from .nfs import NFS

            return NFS()
        case names.PVC:
            from .pvc import PVC

            return PVC()
    return _from_outside(name)


@lru_cache(maxsize=64)
def _from_outside(name: str) -> Provider | None:
    from importlib.metadata import entry_points  # a megabyte, which mounters of our own providers do without

    found: Provider | None = next((entry.load()() for entry in entry_points(group=ENTRY_POINTS, name=name)), None)
    return found


def forget() -> None:
    """Look anew for providers that are not ours."""
    _from_outside.cache_clear()


def validate(name: str, parameters: Mapping[str, str]) -> tuple[str, ...]:
    """What is wrong with the parameters of a mount, one sentence each; empty if a mount may be tried.

    Keys are those of `WantedMount.parameters`. A key that is missing is judged as its default, so what a class alone decides is
    judged by `validate_class`.
    """
    found = provider(name)
    return (_unknown(name),) if found is None else found.validate(parameters)


def validate_class(name: str, parameters: Mapping[str, str]) -> tuple[str, ...]:
    """The same for what a class alone decides (`ClassSpec.mount_parameters`)."""
    found = provider(name)
    return (_unknown(name),) if found is None else found.validate_class(parameters)


def _unknown(name: str) -> str:
    return f'there is no storage provider "{name[:64]}"; this version has: {", ".join(NAMES)}'
