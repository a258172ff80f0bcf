"""From a request to the mount that is meant by it, or to the reason why there cannot be one. Pure.

Names are worked out, never remembered: the same storage at the same path has the same name in the mount table, and the same cache,
whoever asks, and after any restart. One at the same path that differs in anything has another name, and waits until the first has
brought its data home.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from dynvol.api import names
from dynvol.api.claim import digest
from dynvol.api.mounts import WantedMount
from dynvol.api.providerclass import ANONYMOUS
from dynvol.mount import providers
from dynvol.mount.errors import UnsafePath
from dynvol.mount.paths import components
from dynvol.mount.providers.contract import Provider
from dynvol.mount.providers.pvc import NOT_HERE
from dynvol.mounter.stage import SENT

from .errors import InvalidRequest
from .proto.dynvol.mounter import v1 as wire

_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "mounter.dynvol")
_LONGEST_PATH: Final = 1024
_SET: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", re.ASCII)
_KEY: Final = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)
"""Of a Secret."""
_NOT_THE_CALLERS: Final = frozenset(("allowedOptions",))
"""Parameters by which an administrator widens what may be asked for."""
NO_CREDENTIALS: Final = f"{SENT}nothing"
"""The name of a set that never is."""


def wanted(request: wire.MountRequest) -> WantedMount:
    """Raises InvalidRequest, with a sentence for each thing that is wrong."""
    where = path(request.path)
    if request.provider == names.PVC:
        raise InvalidRequest(NOT_HERE)
    provider = providers.provider(request.provider)
    problems = [*providers.validate(request.provider, request.parameters), *_presumptions(request)]
    if provider is not None:
        problems += [*_credentials_problems(request, provider)]
    if provider is None or problems:
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
        credentials=_set(request, provider, uid),
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


def _presumptions(request: wire.MountRequest) -> Iterator[str]:
    for parameter in _NOT_THE_CALLERS & set(request.parameters):
        yield f"{parameter} is not for callers to say"


def _credentials_problems(request: wire.MountRequest, provider: Provider) -> Iterator[str]:
    """Of their shape; what the storage thinks of their values comes out when it is tried."""
    name = request.credentials_name
    if request.credentials and name:
        yield "credentials and credentials_name exclude each other"
    if (request.credentials or name) and request.parameters.get(ANONYMOUS):
        yield f"credentials and the parameter {ANONYMOUS} exclude each other"
    if name and (not _SET.fullmatch(name) or name.startswith(SENT)):
        yield f"{name[:64]!r} cannot be the name of a set of credentials"
    if name and provider.sends_secrets:
        yield f"{request.provider} hands credentials to any server that is named: only those that come with the call are used"
    if unknown := _unknown_keys(request.credentials, provider):
        yield f"credentials hold keys that {request.provider} does not know: {', '.join(unknown)[:200]}"


def _unknown_keys(given: Iterable[str], provider: Provider) -> list[str]:
    if provider.optional_keys is None:
        return sorted(key for key in given if not _KEY.fullmatch(key) or key.startswith(".."))
    return sorted(set(given) - {*provider.secret_keys, *provider.optional_keys, names.CA_CERTIFICATE})


def _set(request: wire.MountRequest, provider: Provider, uid: str) -> str:
    """The name of the set of credentials that the mount may use."""
    if request.credentials:
        return f"{SENT}{uid}"
    return NO_CREDENTIALS if provider.sends_secrets else request.credentials_name


def _hash(request: wire.MountRequest) -> str:
    """Of all that makes two mounts at one path different. What the credentials are is no part of it: they may be renewed."""
    sort = "sent" if request.credentials else f"held {request.credentials_name}"
    identity = (request.provider, dict(request.parameters), request.read_only, sort)
    return digest(identity)
