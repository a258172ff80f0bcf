"""Where in a container a volume's root may be.

Only what would break the container, or what nobody can mean, is refused. The paths are the container's: nothing here looks at
a file system.
"""

from __future__ import annotations

import posixpath
import unicodedata
from typing import Final

LONGEST_PATH: Final = 1024
"""Bytes. The kernel takes 4096 (PATH_MAX), of which claims' mountpoints need room too."""
LONGEST_NAME: Final = 255
"""Bytes (NAME_MAX)."""

_KERNEL_TREES: Final = ("/proc", "/sys", "/dev")
"""The container runtime owns these; runc refuses to mount below /proc."""
_SYSTEM: Final = frozenset({"/bin", "/etc", "/lib", "/lib32", "/lib64", "/sbin", "/usr", "/usr/bin", "/usr/lib", "/usr/sbin"})
"""An empty read-only directory in place of one of these leaves a container that cannot start."""


def problem_with_root(root: str) -> str | None:
    """Why `root` cannot be a volume's root, as the rest of a sentence that begins with the path; None if it can."""
    return _problem_with_form(root) or _problem_with_place(root)


def _problem_with_form(path: str) -> str | None:
    if not path.startswith("/"):
        return "must be absolute, that is begin with a slash"
    if path == "/":
        return "cannot be the volume's root, since it is the container's own"
    if posixpath.normpath(path) != path or path.startswith("//"):
        return "must be written plainly: no //, no . or .. as a name, no slash at the end"
    if ":" in path or any(unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp") for c in path):
        return "must not contain colons, control characters or invisible characters"
    if len(path.encode()) > LONGEST_PATH or any(len(name.encode()) > LONGEST_NAME for name in path.split("/")):
        return f"is too long: {LONGEST_PATH} bytes in all, and {LONGEST_NAME} for each name in it, are allowed"
    return None


def _problem_with_place(path: str) -> str | None:
    for tree in _KERNEL_TREES:
        if within(path, tree):
            return f"is in {tree}, which belongs to the kernel and the container runtime"
    if path in _SYSTEM:
        return "holds the container's own programs or settings, which an empty volume would hide"
    return None


def within(path: str, top: str) -> bool:
    """Whether `path` is `top` or lies below it. Both are absolute and normal."""
    return f"{path}/".startswith(f"{top}/")


def as_runtime_sees_it(mount_path: str) -> str:
    """A container's mountPath in plain form. Kubernetes accepts any; kubelet takes a relative one to begin at /."""
    return posixpath.normpath(f"/{mount_path.lstrip('/')}")
