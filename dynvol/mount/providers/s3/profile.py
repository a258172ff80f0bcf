"""The file in which programs made with Amazon's libraries look for credentials."""

from __future__ import annotations

from ..contract import Credentials


def content(given: Credentials) -> bytes:
    """One profile, `default`. The credentials are such as `credentials.finding` has nothing against: no line ends in them."""
    lines = ["[default]", f"aws_access_key_id = {given.access_key}", f"aws_secret_access_key = {given.secret_key}"]
    if given.session_token:
        lines.append(f"aws_session_token = {given.session_token}")
    return "\n".join((*lines, "")).encode()
