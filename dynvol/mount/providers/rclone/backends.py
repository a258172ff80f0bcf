"""What a claim may say of each kind of storage that rclone knows.

Options of rclone reach into the mount pod: some name files in it, some name commands that it runs, some name other remotes. So
each type has a list of those that only describe the storage; what takes a file's name, a command or another remote's is in none.
Values that are secret come out of the class's Secret, by the name of a key in it, and those have lists of their own. Names and
meanings are rclone's (https://rclone.org/overview/). A class can widen the lists by its parameter `allowed-rclone-options`; that
is then for its author to judge.

No value may hold what the configuration file reads as anything but text: line breaks, quotes at its beginning, `%(`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

_LONGEST: Final = 1024
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_]{0,63}", re.ASCII)
_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9 ]{0,31}", re.ASCII)
_SECRET_KEY: Final = re.compile(r"[-._a-zA-Z0-9]{1,253}", re.ASCII)
_NO_TEXT: Final = re.compile(r"[\x00-\x1f\x7f]|%\(|^[\"'`]|^\s|\s$")
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
_URL: Final = re.compile(
    r"(?P<origin>[a-zA-Z][a-zA-Z0-9+.-]{0,15}://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?)(/[^\s@]*)?", re.ASCII
)


class Backend(msgspec.Struct, frozen=True):
    plain: frozenset[str]
    secret: frozenset[str] = frozenset()
    address: str = ""
    """The option that says where the storage is: a URL, or a host beside an option `port`. Empty if there is one place only."""
    required: bool = True
    """Whether `address` must be given; without it, the service's own is meant."""


def _backend(plain: str, secret: str = "", *, address: str = "", required: bool = True) -> Backend:
    return Backend(frozenset(plain.split()), frozenset(secret.split()), address, required)


BACKENDS: Final[Mapping[str, Backend]] = {
    "azureblob": _backend(
        "account endpoint access_tier chunk_size upload_concurrency public_access no_head_object",
        "key sas_url",
        address="endpoint",
        required=False,
    ),
    "b2": _backend("endpoint hard_delete versions chunk_size upload_cutoff", "account key", address="endpoint", required=False),
    "box": _backend("root_folder_id box_sub_type", "token client_id client_secret access_token"),
    "drive": _backend(
        "scope root_folder_id team_drive shared_with_me skip_gdocs export_formats chunk_size impersonate",
        "token client_id client_secret service_account_credentials",
    ),
    "dropbox": _backend("chunk_size shared_files shared_folders", "token client_id client_secret"),
    "ftp": _backend(
        "host user port tls explicit_tls concurrency disable_epsv disable_mlsd disable_utf8 idle_timeout", "pass", address="host"
    ),
    "google cloud storage": _backend(
        "endpoint project_number anonymous object_acl bucket_policy_only location storage_class no_check_bucket",
        "service_account_credentials token client_id client_secret",
        address="endpoint",
        required=False,
    ),
    "http": _backend("url no_slash no_head", "headers", address="url"),
    "onedrive": _backend("region drive_id drive_type root_folder_id chunk_size", "token client_id client_secret"),
    "pcloud": _backend("root_folder_id hostname", "token client_id client_secret", address="hostname", required=False),
    "s3": _backend(
        "provider region endpoint location_constraint acl storage_class chunk_size upload_cutoff upload_concurrency "
        "force_path_style no_check_bucket list_version requester_pays",
        "access_key_id secret_access_key session_token",
        address="endpoint",
        required=False,
    ),
    "sftp": _backend(
        "host user port disable_hashcheck set_modtime skip_links subsystem use_fstat idle_timeout concurrency chunk_size",
        "pass key_pem key_file_pass",
        address="host",
    ),
    "smb": _backend("host user port domain idle_timeout hide_special_share case_insensitive", "pass", address="host"),
    "swift": _backend(
        "auth user user_id domain tenant tenant_id tenant_domain region auth_version endpoint_type chunk_size",
        "key auth_token application_credential_id application_credential_name application_credential_secret",
        address="auth",
    ),
    "webdav": _backend("url vendor user encoding", "pass bearer_token headers", address="url"),
}

# Storage that is made of other remotes or of the mount pod's own files. No class can allow these.
_NEVER: Final = frozenset({"alias", "cache", "chunker", "combine", "compress", "crypt", "hasher", "local", "memory", "union"})


class Wish(msgspec.Struct, frozen=True):
    """What one claim says, taken apart."""

    type: str
    path: str
    plain: Mapping[str, str]
    secret: Mapping[str, str]
    """Option → key of the Secret."""

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Wish:
        """From a mount's parameters, in which options are `parameter.NAME` and `secret.NAME`."""
        return cls(
            type=parameters.get("type", ""),
            path=parameters.get("path", ""),
            plain=_prefixed(parameters, "parameter."),
            secret=_prefixed(parameters, "secret."),
        )

    @property
    def endpoint(self) -> str:
        """`scheme://host[:port]` of the storage; `TYPE://default` where the service itself knows."""
        scheme = self.type.replace(" ", "-") or "unknown"
        known = BACKENDS.get(self.type)
        given = self.plain.get(known.address, "") if known else ""
        if match := _URL.fullmatch(given):
            return match["origin"]
        if given:
            return f"{scheme}://{given}" + (f":{port}" if (port := self.plain.get("port")) else "")
        return f"{scheme}://default"


def problems(wish: Wish, *, widened: Iterable[str] = ()) -> Iterator[str]:
    """What is wrong, one sentence each. `widened` has `type.option` for what a class allows beyond the lists."""
    more = frozenset(widened)
    backend = BACKENDS.get(wish.type)
    if wish.type in _NEVER or (backend is None and not any(entry.startswith(f"{wish.type}.") for entry in more)):
        yield f"type {wish.type[:64]!r} is not allowed; choose one of: {', '.join(sorted(BACKENDS))}"
        return
    known = backend or Backend(frozenset())
    yield from _unknown(wish.type, wish.plain, known.plain, more, "parameter")
    yield from _unknown(wish.type, wish.secret, known.secret, more, "secret")
    yield from (f"parameter {name} {why}" for name, value in wish.plain.items() if (why := _form(value)))
    yield from (
        f"secretKeys: {key[:64]!r} cannot be a key of a Secret" for key in wish.secret.values() if not _SECRET_KEY.fullmatch(key)
    )
    yield from _address_problems(wish, known)


def entries(widened: str) -> list[str]:
    """Of a class's parameter: `type.option`, separated by commas."""
    return [entry.strip() for entry in widened.split(",")] if widened.strip() else []


def entry_problems(widened: str) -> Iterator[str]:
    for entry in entries(widened):
        kind, _, option = entry.partition(".")
        if not _TYPE.fullmatch(kind) or not _NAME.fullmatch(option):
            yield f"{entry[:64]!r} must be a type and an option of rclone, such as hdfs.namenode"
        elif kind in _NEVER:
            yield f"{entry[:64]!r}: {kind} reads the mount pod's own files or other remotes, and is never allowed"


def is_text(value: str) -> bool:
    """Whether the configuration file takes `value` for itself and nothing else."""
    return not _NO_TEXT.search(value)


def _prefixed(parameters: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in sorted(parameters.items()) if key.startswith(prefix)}


def _unknown(kind: str, given: Mapping[str, str], known: frozenset[str], more: frozenset[str], what: str) -> Iterator[str]:
    for name in given:
        if name not in known and f"{kind}.{name}" not in more:
            listed = ", ".join(sorted(known)) or "none"
            yield f"{what} {name[:64]!r} of type {kind} is not allowed; allowed are: {listed}"


def _form(value: str) -> str:
    if len(value) > _LONGEST:
        return f"takes at most {_LONGEST} characters"
    return "" if is_text(value) else "must be one line of text, without quotes or blanks at its ends and without %("


def _address_problems(wish: Wish, backend: Backend) -> Iterator[str]:
    given = wish.plain.get(backend.address, "") if backend.address else ""
    if backend.address and backend.required and not given:
        yield f"parameter {backend.address} is missing: it says where the storage is"
    if backend.address in ("url", "auth") and given and not _URL.fullmatch(given):
        yield f"parameter {backend.address} must be a URL such as https://host/path, without user or password in it"
    if (port := wish.plain.get("port", "")) and not (_PORT.fullmatch(port) and 0 < int(port) < 65536):
        yield f"parameter port must be a number from 1 to 65535, not {port[:16]!r}"
