"""Tests marked `root` run in namespaces of mounts and processes of their own, as those of the mounter do."""

from unit.mount.conftest import playground, pytest_pyfunc_call

__all__ = ["playground", "pytest_pyfunc_call"]
