"""One signed request that shows whether a bucket is there and may be read: ListObjectsV2 for one key below the prefix.

It is sent before a client that would serve a missing bucket, and after one that died, because no client's last words tell a
wrong key from a wrong region. The server's own error code does. HeadBucket would be cheaper still, but its answers have no
body, so no code. Signing is Signature Version 4, as Amazon documents it, for requests without a body.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from typing import Final
from urllib.parse import quote

from ..contract import Answer, Credentials, Finding, Request, Silence
from .bucket import Bucket

_EMPTY_BODY: Final = hashlib.sha256(b"").hexdigest()
_CODE: Final = re.compile(rb"<Code>\s*([A-Za-z0-9.]{1,64})\s*</Code>")
_REGION: Final = re.compile(rb"<Region>\s*([a-z0-9-]{1,64})\s*</Region>")


_NOT_PUBLIC: Final = (
    'bucket "{name}" at {url} is not open to everyone, and there are no credentials; name a Secret in the class, or in the claim '
    "if the class lets claims do that"
)


def request(bucket: Bucket, credentials: Credentials, *, now: float) -> Request:
    """The request, signed at Unix time `now` if there is something to sign it with."""
    tls, host, port = bucket.address
    path = "/"
    if bucket.path_style:
        path = f"/{bucket.name}"
    else:
        host = f"{bucket.name}.{host}"
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port == (443 if tls else 80) else f"{shown}:{port}"
    query = {"list-type": "2", "max-keys": "1", **({"prefix": bucket.prefix + "/"} if bucket.prefix else {})}
    encoded = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))
    headers = {"host": authority}
    if credentials.access_key:
        headers = _signed(authority, path, encoded, bucket.region, credentials, now=now)
    return Request(tls, host, port, f"{path}?{encoded}", headers, credentials.ca_file)


def _signed(host: str, path: str, query: str, region: str, credentials: Credentials, *, now: float) -> dict[str, str]:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    headers = {"host": host, "x-amz-content-sha256": _EMPTY_BODY, "x-amz-date": stamp}
    if credentials.session_token:
        headers["x-amz-security-token"] = credentials.session_token
    names = ";".join(sorted(headers))
    listed = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = f"GET\n{path}\n{query}\n{listed}\n{names}\n{_EMPTY_BODY}"
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.digest(_signing_key(credentials.secret_key, stamp[:8], region), text.encode(), "sha256").hex()
    credential = f"Credential={credentials.access_key}/{scope}"
    headers["authorization"] = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={signature}"
    return headers


def _signing_key(secret: str, date: str, region: str) -> bytes:
    key = b"AWS4" + secret.encode()
    for part in (date, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def judge(answer: Answer | Silence, bucket: Bucket, credentials: Credentials) -> Finding | None:
    """What the answer means for the user; None if the bucket can be listed with these credentials."""
    if isinstance(answer, Silence):
        return _silence(answer, bucket, credentials)
    if answer.status == 200 and b"ListBucketResult" in answer.body:
        return None
    found = _CODE.search(answer.body)
    return _refusal(answer, found[1].decode() if found else "", bucket, credentials)


def _silence(why: Silence, bucket: Bucket, credentials: Credentials) -> Finding:
    _, host, port = bucket.address
    match why:
        case Silence.UNRESOLVED:
            return Finding(
                "EndpointNotFound", f"the endpoint's host name {host} does not resolve on this node; correct the endpoint"
            )
        case Silence.REFUSED:
            return Finding(
                "EndpointUnreachable", f"{host} refuses connections on port {port}; check the endpoint and that it is up"
            )
        case Silence.UNREACHABLE:
            return Finding("EndpointUnreachable", f"this node has no route to {host}:{port}; check the endpoint and the network")
        case Silence.TIMED_OUT:
            return Finding("EndpointTimeout", f"{host}:{port} does not answer; check the endpoint and firewalls on the way", False)
        case Silence.UNTRUSTED:
            return Finding(
                "CertificateError",
                f"the certificate of {host} is not trusted or not for that name; correct the endpoint, or add the authority as "
                f"`ca.crt` to {credentials.whose}",
            )
        case Silence.NOT_TLS:
            return Finding("CertificateError", f"{host}:{port} does not speak TLS; is it http:// rather than https://?")
        case Silence.GARBLED:
            return Finding("NotS3", f"{host}:{port} does not speak HTTP; correct the endpoint (https:// rather than http://?)")


def _refusal(answer: Answer, code: str, bucket: Bucket, credentials: Credentials) -> Finding:
    url, name, whose = bucket.url, bucket.name, credentials.whose
    match code:
        case "NoSuchBucket":
            return Finding("NoSuchBucket", f'bucket "{name}" does not exist at {url}; create it, or correct the claim')
        case "InvalidAccessKeyId":
            return Finding("AccessDenied", f"{url} does not know the `access-key-id` in {whose}; correct it")
        case "SignatureDoesNotMatch":
            return Finding("AccessDenied", f"{url} refuses the `secret-access-key` in {whose}; correct it")
        case "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired":
            return Finding("CredentialsExpired", f"{url} says that the `session-token` in {whose} is expired; renew it")
        case "RequestTimeTooSkewed":
            return Finding("ClockSkew", f"the clocks of this node and of {url} differ by more than it accepts; set them right")
        case "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException":
            region = _REGION.search(answer.body)
            hint = f"; its region is {region[1].decode()}" if region else ""
            return Finding("WrongRegion", f'bucket "{name}" is not in region {bucket.region}{hint}; set the region in the claim')
        case "SlowDown" | "ServiceUnavailable" | "InternalError" | "RequestTimeout":
            return Finding("StorageUnavailable", f"{url} is overloaded or down ({code}); it is tried again", False)
    return _by_status(answer.status, code, bucket, credentials)


def _by_status(status: int, code: str, bucket: Bucket, credentials: Credentials) -> Finding:
    url, name = bucket.url, bucket.name
    if status in (400, 401, 403) and not credentials.access_key:
        # Some say no more than that they miss a signature, in words of their own.
        return Finding("AccessDenied", _NOT_PUBLIC.format(name=name, url=url))
    if status in (401, 403):
        return Finding("AccessDenied", f'the credentials in {credentials.whose} may not list bucket "{name}" at {url}; grant it')
    if status == 404 and not code:
        return Finding("NotS3", f'{url} has nothing at "{name}" and does not answer as S3 does; correct the endpoint or pathStyle')
    if status >= 500 or status == 429:
        return Finding("StorageUnavailable", f"{url} answers with HTTP status {status}; it is tried again", False)
    if status == 200 or not code:
        return Finding("NotS3", f"{url} answers with HTTP status {status}, but not as S3 does; correct the endpoint")
    return Finding("UnexpectedAnswer", f'{url} refuses to list bucket "{name}": {code} (HTTP status {status})')
