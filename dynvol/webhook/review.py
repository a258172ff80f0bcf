"""AdmissionReview on the wire (admission.k8s.io/v1): bytes to a request, a verdict to bytes.

The object under review stays as the bytes it came in until a rule decodes what it needs; only a patch goes back, so nothing of it
can be lost on the way.
"""

from __future__ import annotations

import msgspec

from dynvol.api.meta import Projection

from .rules.verdict import Verdict

API_VERSION = "admission.k8s.io/v1"
_NOTHING = msgspec.Raw(b"null")


class AdmissionRequest(Projection, frozen=True):
    uid: str
    operation: str = ""
    namespace: str = ""
    name: str = ""
    """Empty for an object that the API server has yet to name."""
    object: msgspec.Raw = _NOTHING


class _Review(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    api_version: str
    kind: str
    request: AdmissionRequest


class Malformed(ValueError):
    """What came is no AdmissionReview that this version can read. The message quotes no content."""


_decoder = msgspec.json.Decoder(_Review)


def decode(body: bytes) -> AdmissionRequest:
    """Raises `Malformed`."""
    try:
        review = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not an AdmissionReview with a request: {error}") from error
    if review.kind != "AdmissionReview" or review.api_version != API_VERSION:
        raise Malformed(f"{review.api_version[:64]} {review.kind[:64]} is not {API_VERSION} AdmissionReview")
    return review.request


def encode(verdict: Verdict, *, uid: str) -> bytes:
    """The answer to the request `uid`."""
    response: dict[str, object] = {"uid": uid, "allowed": verdict.allowed}
    if verdict.warnings:
        response["warnings"] = list(verdict.warnings)
    if not verdict.allowed:
        response["status"] = {"code": 422, "reason": "Invalid", "message": "; ".join(verdict.problems)}
    elif verdict.patch:
        # Bytes are base64 in JSON, for msgspec as for the API.
        response |= {"patchType": "JSONPatch", "patch": msgspec.json.encode(verdict.patch)}
    return msgspec.json.encode({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
