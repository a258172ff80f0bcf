"""Tests marked `root` change mounts: each runs in namespaces of its own, and the host's mount table is compared afterwards.

The body of such a test runs in a forked child, with an empty tmpfs at the `playground`. It may be a plain function only: what
is asynchronous runs with asyncio.run inside.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator

import pytest

from unit.mount.namespaces import ChildFailed, run_isolated

_TIMEOUT = 60.0


@pytest.fixture
def playground() -> Iterator[str]:
    """An empty directory, which inside a test marked `root` is an empty tmpfs."""
    path = os.path.realpath(tempfile.mkdtemp(prefix="dynvol-test-"))
    yield path
    os.rmdir(path)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if pyfuncitem.get_closest_marker("root") is None:
        return None
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    assert not asyncio.iscoroutinefunction(pyfuncitem.obj), "a test marked root is a plain function"
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    before = _host_mounts()
    place = str(pyfuncitem.funcargs.get("playground", "/mnt"))
    try:
        run_isolated(lambda: pyfuncitem.obj(**arguments), playground=place, timeout=_TIMEOUT)
    except ChildFailed as failure:
        pytest.fail(str(failure), pytrace=False)
    assert _host_mounts() == before, "a mount leaked to the host"
    return True


def _host_mounts() -> set[str]:
    with open("/proc/self/mountinfo") as table:
        return {line.partition(" ")[2] for line in table if "dynvol-test-" in line}
