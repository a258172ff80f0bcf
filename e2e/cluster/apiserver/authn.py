"""Who asks: client certificates of the cluster's CA, and service-account tokens.

A token is a JWT that this server signed. It names the account and, when kubelet asked for it, the pod that it is bound to; it
ends when it expires, at once when the account or the pod is gone, and a minute after either was to be. A request without
credentials is `system:anonymous`; one with bad credentials is refused.
"""

from __future__ import annotations

import base64
import datetime
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from e2e.cluster.apiserver.request import User
from e2e.cluster.apiserver.status import Object, unauthorized
from e2e.cluster.apiserver.store import Entry, Key, Store

ISSUER = "https://kubernetes.default.svc.cluster.local"
AUDIENCE = ISSUER
ANONYMOUS = User(name="system:anonymous", groups=("system:unauthenticated",))
AUTHENTICATED = "system:authenticated"
POD_NAME, POD_UID = "authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"
NODE_NAME, NODE_UID = "authentication.kubernetes.io/node-name", "authentication.kubernetes.io/node-uid"
CREDENTIAL_ID = "authentication.kubernetes.io/credential-id"

DELETED_LEEWAY = 60.0
"""Seconds for which what carries a finalizer, or has a grace period, still counts after the time of its deletion."""
MINIMUM_LIFETIME = 600
"""Seconds; what TokenRequest refuses to go below."""


class Tokens:
    """Signs and checks service-account tokens."""

    def __init__(self, store: Store, *, signing_key: Path) -> None:
        self._store = store
        key = serialization.load_pem_private_key(signing_key.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        self._verified: dict[str, Object] = {}

    def issue(self, account: Entry, *, audiences: Sequence[str], lifetime: int, bound_to: Entry | None = None) -> tuple[str, int]:
        """A token and the time at which it expires, in seconds since the epoch."""
        now = int(time.time())
        namespace, name = account.key.namespace, account.key.name
        bound: Object = {"namespace": namespace, "serviceaccount": {"name": name, "uid": account.object["metadata"]["uid"]}}
        if bound_to is not None:
            kind = bound_to.object["kind"].lower()
            bound[kind] = {"name": bound_to.key.name, "uid": bound_to.object["metadata"]["uid"]}
            node = self._store.get(Key("/nodes", "", (bound_to.object.get("spec") or {}).get("nodeName", "")))
            if node is not None:
                bound["node"] = {"name": node.key.name, "uid": node.object["metadata"]["uid"]}
        claims = {
            "iss": ISSUER,
            "sub": f"system:serviceaccount:{namespace}:{name}",
            "aud": list(audiences) or [AUDIENCE],
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": bound,
        }
        return self._sign(claims), now + lifetime

    def _sign(self, claims: Object) -> str:
        signed = f"{_encode({'alg': 'ES256', 'typ': 'JWT'})}.{_encode(claims)}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return f"{signed}.{_base64(signature)}"

    def user(self, token: str, *, audiences: Sequence[str] = (AUDIENCE,)) -> User:
        """Whom the token speaks for; `unauthorized` if for nobody, now."""
        claims = self._verified.get(token) or self._verify(token)
        if not set(audiences) & set(claims["aud"]) or not claims["nbf"] - 60 <= time.time() < claims["exp"]:
            raise unauthorized()
        bound = claims["kubernetes.io"]
        namespace, account = bound["namespace"], bound["serviceaccount"]
        self._check_alive("/serviceaccounts", namespace, account)
        for kind in ("pod", "secret"):
            if kind in bound:
                self._check_alive(f"/{kind}s", namespace, bound[kind])
        return User(
            name=claims["sub"],
            uid=account["uid"],
            groups=("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED),
            extra=_extra(claims),
        )

    def _verify(self, token: str) -> Object:
        try:
            signed, _, signature = token.rpartition(".")
            header, payload = signed.split(".")
            raw = _decode(signature)
            encoded = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
            self._key.public_key().verify(encoded, signed.encode(), ec.ECDSA(hashes.SHA256()))
            if json.loads(_decode(header))["alg"] != "ES256":
                raise unauthorized()
            claims: Object = json.loads(_decode(payload))
        except (ValueError, KeyError, InvalidSignature) as error:
            raise unauthorized() from error
        if len(self._verified) > 1000:
            self._verified.clear()
        self._verified[token] = claims
        return claims

    def _check_alive(self, resource: str, namespace: str, reference: Mapping[str, str]) -> None:
        entry = self._store.get(Key(resource, namespace, reference["name"]))
        if entry is None or entry.object["metadata"]["uid"] != reference["uid"]:
            raise unauthorized()
        deleted = entry.object["metadata"].get("deletionTimestamp")
        if deleted and datetime.datetime.fromisoformat(deleted).timestamp() < time.time() - DELETED_LEEWAY:
            raise unauthorized()


def _extra(claims: Object) -> dict[str, tuple[str, ...]]:
    bound = claims["kubernetes.io"]
    extra: dict[str, tuple[str, ...]] = {CREDENTIAL_ID: (f"JTI={claims['jti']}",)}
    if "pod" in bound:
        extra |= {POD_NAME: (bound["pod"]["name"],), POD_UID: (bound["pod"]["uid"],)}
    if "node" in bound:
        extra |= {NODE_NAME: (bound["node"]["name"],), NODE_UID: (bound["node"]["uid"],)}
    return extra


def from_certificate(peer: Mapping[str, Any] | None) -> User | None:
    """The user that a verified client certificate names: its common name, and its organizations as groups."""
    attributes = [pair for part in (peer or {}).get("subject", ()) for pair in part]
    names = [value for key, value in attributes if key == "commonName"]
    if not names:
        return None
    groups = [value for key, value in attributes if key == "organizationName"]
    return User(name=names[0], groups=(*groups, AUTHENTICATED))


def impersonated(headers: Sequence[tuple[str, str]]) -> User | None:
    """Whom the request wants to be taken for (`kubectl --as`)."""
    given = [(name.lower(), value) for name, value in headers]
    name = next((value for key, value in given if key == "impersonate-user"), "")
    if not name:
        return None
    groups = [value for key, value in given if key == "impersonate-group"]
    if name.startswith("system:serviceaccount:") and not groups:
        namespace = name.split(":")[2]
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
    prefix = "impersonate-extra-"
    extra: dict[str, tuple[str, ...]] = {}
    for key, value in given:
        if key.startswith(prefix):
            extra[key.removeprefix(prefix)] = (*extra.get(key.removeprefix(prefix), ()), value)
    everyone = () if name == ANONYMOUS.name else (AUTHENTICATED,)
    uid = next((value for key, value in given if key == "impersonate-uid"), "")
    return User(name=name, uid=uid, groups=tuple(dict.fromkeys((*groups, *everyone))), extra=extra)


def _encode(content: Object) -> str:
    return _base64(json.dumps(content, separators=(",", ":")).encode())


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
