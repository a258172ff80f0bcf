"""A bucket and how to reach it, taken from a mount's parameters with nothing left to chance.

After `problems` has found none, every field is safe in an option list, in an INI file and in a URL: no comma, no line break,
no leading dash, no way up.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Final

import msgspec

DEFAULT_REGION: Final = "us-east-1"
_LONGEST_PREFIX: Final = 512

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_ENDPOINT: Final = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_LABEL}(\.{_LABEL})*|\[[0-9a-f:.]{{2,45}}\])(:(?P<port>[0-9]{{1,5}}))?/?",
    re.ASCII | re.IGNORECASE,
)
_REGION: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,62}[A-Za-z0-9])?", re.ASCII)
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f\\]")


class Bucket(msgspec.Struct, frozen=True):
    name: str
    endpoint: str
    """`scheme://host[:port]`, empty for Amazon's own."""
    region: str
    prefix: str
    """Without leading or trailing slash; empty for the whole bucket."""
    path_style: bool

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Bucket:
        """From parameters in which `problems` found none."""
        endpoint = parameters.get("endpoint", "").rstrip("/")
        return cls(
            name=parameters["bucket"],
            endpoint=endpoint,
            region=parameters.get("region") or DEFAULT_REGION,
            prefix=parameters.get("prefix", "").strip("/"),
            # Amazon serves new buckets only under their own host names, and names with dots have no valid certificate there.
            path_style=parameters.get("pathStyle", "true" if endpoint else "false") != "false",
        )

    @property
    def url(self) -> str:
        return url({"endpoint": self.endpoint, "region": self.region})

    @property
    def address(self) -> tuple[bool, str, int]:
        """Whether TLS, host and port of `url`."""
        match = _ENDPOINT.fullmatch(self.url)
        if match is None:
            raise ValueError(self.url)
        tls = match["scheme"].lower() == "https"
        return tls, match["host"].strip("[]"), int(match["port"] or (443 if tls else 80))


def url(parameters: Mapping[str, str]) -> str:
    """Where requests go: the endpoint, or Amazon's for the region."""
    return parameters.get("endpoint", "").rstrip("/") or f"https://s3.{parameters.get('region') or DEFAULT_REGION}.amazonaws.com"


def problems(parameters: Mapping[str, str]) -> list[str]:
    """What is wrong, one sentence each."""
    found = [
        _bucket_problem(parameters.get("bucket", "")),
        _endpoint_problem(parameters.get("endpoint", "")),
        _region_problem(parameters.get("region", "")),
        _prefix_problem(parameters.get("prefix", "")),
        _path_style_problem(parameters.get("pathStyle", "")),
    ]
    return [problem for problem in found if problem]


def _bucket_problem(name: str) -> str:
    if not name:
        return "bucket is missing"
    fits = _BUCKET.fullmatch(name) and ".." not in name and not name.startswith("xn--") and not _is_address(name)
    rule = "3 to 63 lower-case letters, digits, dots and hyphens, beginning and ending with a letter or digit"
    return "" if fits else f"bucket {name[:64]!r} is no bucket name: {rule}"


def _endpoint_problem(endpoint: str) -> str:
    if not endpoint:
        return ""
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or (match["port"] and not 0 < int(match["port"]) < 65536):
        return f"endpoint {endpoint[:128]!r} must be http://host or https://host, with a port if need be and no path"
    if match["host"].startswith("[") and not _is_address(match["host"].strip("[]")):
        return f"endpoint {endpoint[:128]!r} holds a malformed IPv6 address"
    return ""


def _region_problem(region: str) -> str:
    return "" if not region or _REGION.fullmatch(region) else f"region {region[:64]!r} must be letters, digits and hyphens"


def _prefix_problem(prefix: str) -> str:
    bare = prefix.strip("/")
    if not bare:
        return ""
    if len(bare.encode("utf-8", "replace")) > _LONGEST_PREFIX:
        return f"prefix takes at most {_LONGEST_PREFIX} bytes"
    if _UNPRINTABLE.search(bare):
        return "prefix must not hold control characters or backslashes"
    if any(part in ("", ".", "..") for part in bare.split("/")):
        return f"prefix {bare[:64]!r} must not hold empty parts, `.` or `..`"
    return ""


def _path_style_problem(value: str) -> str:
    return "" if value in ("", "true", "false") else f"pathStyle must be true or false, not {value[:16]!r}"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
