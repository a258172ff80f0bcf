"""What a class lets its users do: from which namespaces it may be used, at which endpoints, for which buckets.

A class's credentials open what they open, whoever asks. Pins are how an administrator narrows that: comma-separated patterns in
the class's parameters. They bind whoever writes claims and pods, not whoever writes classes. A pin that is not set allows all,
but for Secrets of claims, of which it allows none, and for endpoints where any would be a danger; one that is set and cannot be
read allows nothing.

In a pattern `*` stands for any characters, or none. In the host of an endpoint it stays within one label, so that
`https://*.example.com` is not `https://example.com.evil.example.com`; scheme and port must be equal, the default port spelt or not.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Final

import msgspec

from dynvol.api import names
from dynvol.api.claim import ClaimSpec
from dynvol.api.providerclass import ClassSpec

from . import provider
from .contract import Provider, Target

_ENDPOINT: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]{0,15})://(?P<host>[a-z0-9*]([a-z0-9.*-]{0,251}[a-z0-9*])?|\[[0-9a-f:.]{2,45}\])"
    r"(:(?P<port>[0-9]{1,5}))?/?",
    re.ASCII | re.IGNORECASE,
)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "nfs": 2049}
_BUCKET: Final = re.compile(r"[A-Za-z0-9._*-]{1,255}", re.ASCII)
_NAMESPACE: Final = re.compile(r"[a-z0-9*]([a-z0-9*-]{0,61}[a-z0-9*])?", re.ASCII)
_LONGEST_LIST: Final = 256
"""Characters of a list of patterns that a message quotes."""


class _Endpoint(msgspec.Struct, frozen=True):
    scheme: str
    host: str
    port: int


def namespace_refusal(of_class: ClassSpec, namespace: str) -> str:
    """Why a class is not for `namespace`, as the end of a sentence that begins with the class; empty if it is."""
    return _refusal(of_class.parameters, names.ALLOWED_NAMESPACES_PARAMETER, "namespace", namespace, _matches)


def refusal(of_class: ClassSpec, claim: ClaimSpec, *, namespace: str) -> str:
    """The same for a claim. Both are of one provider."""
    found, pins = provider(claim.provider), of_class.parameters
    target = found.target(claim.parameters) if found is not None else Target(endpoint="", bucket="")
    if found is not None and (danger := danger_of_any_endpoint(found)) and not pins.get(names.ALLOWED_ENDPOINTS_PARAMETER):
        # Told at admission too; but the webhook may have been away.
        key = names.ALLOWED_ENDPOINTS_PARAMETER.rpartition("/")[2]
        return f"names no endpoints in its parameter {key}, and provider {claim.provider} {danger}, whoever that is"
    if found is not None and claim.secret and not found.secret_keys and found.optional_keys == ():
        return f"is of provider {claim.provider}, which uses no credentials; leave credentialsSecretRef out"
    return (
        namespace_refusal(of_class, namespace)
        or _secret_refusal(pins, claim)
        or _refusal(pins, names.ALLOWED_ENDPOINTS_PARAMETER, "endpoint", target.endpoint, _endpoint_matches)
        or _refusal(pins, names.ALLOWED_BUCKETS_PARAMETER, "bucket", target.bucket, _matches)
    )


def danger_of_any_endpoint(found: Provider) -> str:
    """What a provider does that a class must name its endpoints for, as the end of a sentence; empty if it need not."""
    if found.sends_secrets:
        return "sends the Secret's values to the storage's server"
    if found.in_kernel:
        return "has the node's kernel talk to the storage's server"
    return ""


def problems(pins: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the pins themselves, one sentence each."""
    for key, is_pattern, form in (
        (names.ALLOWED_NAMESPACES_PARAMETER, _NAMESPACE.fullmatch, "the name of a namespace"),
        (names.ALLOWED_ENDPOINTS_PARAMETER, _endpoint, "scheme://host or scheme://host:port"),
        (names.ALLOWED_BUCKETS_PARAMETER, _BUCKET.fullmatch, "the name of a bucket"),
        (names.CLAIM_SECRETS_PARAMETER, _BUCKET.fullmatch, "the name of a Secret"),
    ):
        for pattern in _patterns(pins[key]) if key in pins else ():
            if not is_pattern(pattern):
                yield f"parameter {key}: {pattern[:64]!r} must be {form}, in which * stands for any characters"


def _secret_refusal(pins: Mapping[str, str], claim: ClaimSpec) -> str:
    """What a claim names is handed to the storage that it names, so a class must say that it may."""
    key = names.CLAIM_SECRETS_PARAMETER
    if not claim.secret:
        return ""
    if not pins.get(key):
        return f"does not let claims name Secrets of their own; its parameter {key.rpartition('/')[2]} would"
    return _refusal(pins, key, "Secret", claim.secret, _matches)


def _refusal(pins: Mapping[str, str], key: str, what: str, value: str, matches: Callable[[str, str], bool]) -> str:
    listed = pins.get(key)
    if listed is None or any(matches(pattern, value) for pattern in _patterns(listed)):
        return ""
    shown = listed if len(listed) <= _LONGEST_LIST else f"{listed[:_LONGEST_LIST]}…"
    return f"does not allow the {what} {value[:128]!r}; its parameter {key.rpartition('/')[2]} has {shown!r}"


def _patterns(listed: str) -> list[str]:
    return [pattern.strip() for pattern in listed.split(",")]


def _matches(pattern: str, value: str) -> bool:
    """An empty value, which is a missing one, is matched by nothing."""
    return bool(value) and _BUCKET.fullmatch(pattern) is not None and fnmatch.fnmatchcase(value, pattern)


def _endpoint_matches(pattern: str, value: str) -> bool:
    allowed, asked = _endpoint(pattern), _endpoint(value)
    if allowed is None or asked is None or (allowed.scheme, allowed.port) != (asked.scheme, asked.port):
        return False
    return allowed.host == asked.host or _host_matches(allowed.host.split("."), asked.host.split("."))


def _host_matches(pattern: list[str], host: list[str]) -> bool:
    return len(pattern) == len(host) and all(map(fnmatch.fnmatchcase, host, pattern))


@lru_cache(maxsize=256)
def _endpoint(text: str) -> _Endpoint | None:
    """In one form for all spellings; None if it is none."""
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        return None
    scheme, host = match["scheme"].lower(), match["host"].lower()
    if host.startswith("["):
        try:
            host = ipaddress.IPv6Address(host.strip("[]")).compressed
        except ValueError:
            return None
    return _Endpoint(scheme, host, int(match["port"] or _DEFAULT_PORTS.get(scheme, 0)))
