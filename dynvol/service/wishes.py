"""From a request to the mount that is meant by it, or to the reason why there cannot be one. Pure.

Names are worked out, never remembered: the same storage at the same path has the same name in the mount table, and the same cache,
whoever asks, and after any restart. One at the same path that differs in anything has another name, and waits until the first has
brought its data home.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Final

from dynvol.api import names
from dynvol.api.claim import digest
from dynvol.api.mounts import WantedMount
from dynvol.mount import providers
from dynvol.mount.errors import UnsafePath
from dynvol.mount.paths import components
from dynvol.mounter.stage import SENT

from .errors import InvalidRequest
from .proto.dynvol.mounter import v1 as wire

_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "mounter.dynvol")
_LONGEST_PATH: Final = 1024
_SET: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", re.ASCII)
_KEYS: Final = (names.ACCESS_KEY, names.SECRET_KEY, names.SESSION_TOKEN, names.CA_CERTIFICATE)


def wanted(request: wire.MountRequest) -> WantedMount:
    """Raises InvalidRequest, with a sentence for each thing that is wrong."""
    where = path(request.path)
    problems = [*providers.validate(request.provider, request.parameters), *_credentials_problems(request)]
    if problems:
        raise InvalidRequest("; ".join(problems))
    uid = str(uuid.uuid5(_NAMESPACE, where))
    return WantedMount(
        claim=f"/{where}",
        claim_uid=uid,
        pod_uid="",
        path=where,
        provider=request.provider,
        spec_hash=_hash(request),
        read_only=request.read_only,
        credentials=f"{SENT}{uid}" if request.credentials else request.credentials_name,
        parameters=dict(request.parameters),
    )


def path(text: str) -> str:
    """A path below the root, in the one form that it has here. Raises InvalidRequest."""
    bare = text.strip("/")
    try:
        if len(text.encode()) > _LONGEST_PATH:
            raise InvalidRequest(f"a path may have {_LONGEST_PATH} bytes")
        components(bare)
    except UnsafePath as problem:
        raise InvalidRequest(f"path: {problem}") from problem
    if not bare.isprintable():
        raise InvalidRequest("path holds control characters")
    return bare


def secrets(request: wire.MountRequest) -> Mapping[str, bytes]:
    """The files that a set of credentials is made of."""
    return {key: value.encode() for key, value in request.credentials.items()}


def _credentials_problems(request: wire.MountRequest) -> list[str]:
    """Of their shape; what a provider thinks of their values comes out when it is tried."""
    found = []
    if unknown := sorted(set(request.credentials) - set(_KEYS)):
        found.append(f"credentials hold unknown keys ({', '.join(unknown)[:200]}); known are {', '.join(_KEYS)}")
    if request.credentials and request.credentials_name:
        found.append("credentials and credentials_name exclude each other")
    name = request.credentials_name
    if name and (not _SET.fullmatch(name) or name.startswith(SENT)):
        found.append(f"{name[:64]!r} cannot be the name of a set of credentials")
    return found


def _hash(request: wire.MountRequest) -> str:
    """Of all that makes two mounts at one path different. What the credentials are is no part of it: they may be renewed."""
    sort = "sent" if request.credentials else f"held {request.credentials_name}"
    identity = (request.provider, dict(request.parameters), request.read_only, sort)
    return digest(identity)
