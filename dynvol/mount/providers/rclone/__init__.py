"""Any storage that rclone knows: WebDAV, SFTP, SMB, Google Cloud Storage, Azure Blob, and many more.

A claim gives rclone's own options (`rcloneConfig`), as far as `backends` allows them; the class's Secret gives those that are
secret. Unlike with S3, where a secret signs and never travels, such storage is sent the secret itself. Whoever may choose the
server could so collect it, which is why a class must say which servers its claims may use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from dynvol.api import names

from .. import options, owner
from ..contract import Answer, Client, Command, Credentials, Finding, Place, Silence, Target, Unusable
from ..owner import Owner
from . import backends, program
from .backends import Wish

_KNOWN: Final = frozenset(
    ("type", "path", "uid", "gid", "umask", "mounter", "options", "claimOptions", "allowedOptions", "anonymous")
)
_LONGEST_PATH: Final = 1024
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f]")


class Rclone:
    secret_keys: Final = ()
    optional_keys: Final = None
    serves_anyone: Final = True
    sends_secrets: Final = True
    in_kernel: Final = False

    def validate(self, parameters: Mapping[str, str]) -> tuple[str, ...]:
        own = {key: value for key, value in parameters.items() if not key.startswith(("parameter.", "secret."))}
        wish = Wish.of(parameters)
        widened = backends.entries(parameters.get("allowedOptions", ""))
        return (
            *options.unknown(own, known=_KNOWN),
            *backends.problems(wish, widened=widened),
            *_path_problems(wish.path),
            *owner.problems(parameters),
            *options.anonymity_problems(parameters),
            *_secretless_problems(wish, anonymous=bool(parameters.get("anonymous"))),
            *options.claim_problems(
                parameters.get("claimOptions", ""),
                allowed=program.ALLOWED_OPTIONS,
                claim_options=program.CLAIM_OPTIONS,
                client="rclone",
            ),
            *self.validate_class(parameters),
        )

    def validate_class(self, parameters: Mapping[str, str]) -> tuple[str, ...]:
        mounter, widened = parameters.get("mounter", ""), parameters.get("allowedOptions", "")
        return (
            *((f'the provider rclone has no mounter "{mounter[:64]}"; leave it out',) if mounter not in ("", "rclone") else ()),
            *options.problems(parameters.get("options", ""), allowed=program.ALLOWED_OPTIONS, client="rclone"),
            *(f"parameter {names.RCLONE_OPTIONS_PARAMETER}: {problem}" for problem in backends.entry_problems(widened)),
        )

    def target(self, parameters: Mapping[str, str]) -> Target:
        wish = Wish.of(parameters)
        return Target(endpoint=wish.endpoint, bucket=wish.path.strip("/").partition("/")[0])

    def unflushed(self, parameters: Mapping[str, str], *, cache: str) -> int:
        return program.unflushed(cache)

    def client(self, parameters: Mapping[str, str], *, read_only: bool, credentials: Credentials) -> Client:
        if found := self.validate(parameters):
            raise Unusable(Finding("InvalidParameters", "; ".join(found)))
        wish = Wish.of(parameters)
        return _Mount(
            wish,
            secrets=_secrets(wish, credentials),
            credentials=credentials,
            owner=Owner.of(parameters),
            read_only=read_only,
            options=options.chosen(parameters),
        )


class _Mount:
    checks_storage: Final = False

    def __init__(
        self,
        wish: Wish,
        *,
        secrets: Mapping[str, str],
        credentials: Credentials,
        owner: Owner,
        read_only: bool,
        options: Mapping[str, str],
    ) -> None:
        self._wish = wish
        self._secrets = secrets
        self._ca_file = credentials.ca_file
        self._whose = credentials.whose
        self._owner = owner
        self._read_only = read_only
        self._options = options

    def command(self, place: Place) -> Command:
        return program.mount(
            self._wish.path,
            place,
            configuration=self._configuration(),
            owner=self._owner,
            read_only=self._read_only,
            options=self._options,
            ca_file=self._ca_file,
        )

    def check(self, place: Place, *, now: float) -> Command:
        """rclone would serve a server that is away, or refuses us, as an empty directory."""
        return program.look(self._wish.path, place, configuration=self._configuration(), ca_file=self._ca_file)

    def judge(self, answer: Answer | Silence) -> Finding | None:
        return None

    def explain(self, output: str) -> Finding | None:
        return program.explain(output) or _explain(output, where=self._wish.endpoint, whose=self._whose)

    def _configuration(self) -> list[str]:
        wish = self._wish
        return [
            f"type = {wish.type}",
            *(f"{k} = {v}" for k, v in wish.plain.items()),
            *(f"{k} = {v}" for k, v in self._secrets.items()),
        ]


def _secretless_problems(wish: Wish, *, anonymous: bool) -> list[str]:
    if not (anonymous and wish.secret):
        return []
    return ["secretKeys name keys of a Secret, but neither the class nor the claim names a Secret"]


def _secrets(wish: Wish, credentials: Credentials) -> dict[str, str]:
    """Option → value. Raises `Unusable`."""
    found: dict[str, str] = {}
    for option, key in wish.secret.items():
        value = credentials.values.get(key, "")
        if not value:
            message = f"{credentials.whose} has no value for the key `{key}`, which the claim wants as {option}; add it"
            raise Unusable(Finding("SecretKeyMissing", message))
        found[option] = _in_one_line(option, value)
        if not backends.is_text(found[option]):
            message = f"the value of `{key}` in {credentials.whose} must be one line of text; store the bare value"
            raise Unusable(Finding("SecretMalformed", message))
    return found


def _in_one_line(option: str, value: str) -> str:
    """Keys in PEM take their line breaks as `\\n`, says rclone; in JSON a line break means nothing."""
    if option == "key_pem":
        return value.strip().replace("\r\n", "\n").replace("\n", "\\n")
    if value.lstrip().startswith("{"):
        return " ".join(value.split())
    return value


def _path_problems(path: str) -> list[str]:
    if len(path.encode("utf-8", "replace")) > _LONGEST_PATH:
        return [f"path takes at most {_LONGEST_PATH} bytes"]
    if _UNPRINTABLE.search(path):
        return ["path must not hold control characters"]
    if any(part in (".", "..") for part in path.split("/")) or "//" in path:
        return [f"path {path[:64]!r} must not hold empty parts, `.` or `..`"]
    return []


_STATUS: Final = r"(?<![\w:./-])"
"""Before a number that is an answer's status, and no port or part of a name."""
_LAST_WORDS: Final = (
    (
        r"failed to (decrypt|reveal) password|input too short when revealing|base64 decode failed when revealing",
        "SecretMalformed",
        "a password in {whose} is not in rclone's form; store what `rclone obscure` makes of it",
    ),
    (
        rf"{_STATUS}(40[13]|530)\b|[Uu]nauthorized|[Ff]orbidden|unable to authenticate"
        r"|AccessDenied|SignatureDoesNotMatch|InvalidAccessKeyId",
        "AccessDenied",
        "{where} refuses the credentials in {whose}, or what they ask for; correct them",
    ),
    (r"no such host|server misbehaving", "EndpointNotFound", "the host name of {where} does not resolve on this node; correct it"),
    (
        r"connection refused|no route to host|network is unreachable",
        "EndpointUnreachable",
        "{where} cannot be reached from this node; check that it is up, and the network",
    ),
    (r"i/o timeout|deadline exceeded|[Tt]imeout", "EndpointTimeout", "{where} does not answer; check it and firewalls on the way"),
    (
        r"x509:|certificate",
        "CertificateError",
        "the certificate of {where} is not trusted; add its authority to the Secret as `ca.crt`",
    ),
    (
        rf"directory not found|NoSuchBucket|{_STATUS}404\b",
        "PathNotFound",
        "the path does not exist at {where}; create it, or correct the claim",
    ),
)


def _explain(output: str, *, where: str, whose: str) -> Finding | None:
    for pattern, reason, message in _LAST_WORDS:
        if re.search(pattern, output):
            return Finding(reason, message.format(where=where, whose=whose), lasting=reason != "EndpointTimeout")
    return None
