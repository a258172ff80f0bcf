"""The table from what goes wrong to codes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from grpclib.const import Status

from dynvol import mount, mounter
from dynvol.rpc.errors import OperationPending, ShuttingDown
from dynvol.service import errors
from dynvol.service.errors import CODE_OF_REASON, CODES, MountFailed

NEVER_THE_END_OF_A_CALL = {"Changing", "CredentialsAwaited", "CredentialsPending", "FilesOpen", "UnflushedData", "Uploading"}
"""Reasons of mounts that are on their way, one way or the other."""


def test_every_reason_that_is_ever_given_has_a_code() -> None:
    """Reasons are CamelCase words in quotes at the beginning of a Finding, or of the entries that Findings are made of."""
    texts = [path.read_text() for package in (mount, mounter) for path in Path(package.__path__[0]).rglob("*.py")]
    given = {reason for text in texts for reason in re.findall(r'Finding\(\s*"([A-Z][A-Za-z]+)"', text)}
    given |= {reason for text in texts for reason in re.findall(r're\.compile\([^\n]*\),\s*"([A-Z][A-Za-z]+)"', text)}
    given |= {reason for text in texts for reason in re.findall(r'\(\s*"([A-Z][a-z]+[A-Z][A-Za-z]+)",\s+"', text)}
    assert {"NoSuchBucket", "FuseUnavailable", "ClientExited", "SecretMalformed", "PathNotFound"} <= given, (
        "the search finds nothing any more"
    )
    assert given - NEVER_THE_END_OF_A_CALL - set(CODE_OF_REASON) == set()


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (errors.InvalidRequest("x"), Status.INVALID_ARGUMENT),
        (errors.NothingMounted("x"), Status.NOT_FOUND),
        (errors.PathTaken("x"), Status.ALREADY_EXISTS),
        (errors.Withdrawn("x"), Status.ABORTED),
        (MountFailed("NoSuchBucket", "x"), Status.NOT_FOUND),
        (MountFailed("AccessDenied", "x"), Status.PERMISSION_DENIED),
        (MountFailed("SomethingNew", "x"), Status.UNKNOWN),
        (OperationPending("x"), Status.ABORTED),
        (ShuttingDown("x"), Status.UNAVAILABLE),
        (OSError(28, "full"), Status.RESOURCE_EXHAUSTED),
        (ValueError("a defect"), None),
    ],
)
def test_each_error_has_its_code(problem: Exception, code: Status | None) -> None:
    assert CODES.of(problem) is code
