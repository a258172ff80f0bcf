"""Another revision of dynvol, beside this one: its code and its `config/`, and an entrypoint for the local cluster's kubelet.

Its processes run with the packages that are installed here, so a revision that needs others does not run.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
IMAGE = "dynvol-before"
"""What pods name to run it."""


@dataclass(frozen=True, slots=True)
class Revision:
    folder: Path
    """Its files."""
    images: dict[str, str]
    """For the local cluster."""

    @property
    def config(self) -> Path:
        return self.folder / "config" / "default"


@contextmanager
def revision(name: str) -> Iterator[Revision]:
    """Raises AssertionError if there is no such commit."""
    commit = _git("rev-parse", "--verify", f"{name}^{{commit}}").decode().strip()
    # In the environment of this one, which the containers of the local cluster see, whoever they run as.
    folder = Path(tempfile.mkdtemp(prefix="revision-", dir=sys.prefix))
    try:
        folder.chmod(0o755)
        with tarfile.open(fileobj=io.BytesIO(_git("archive", commit, "dynvol", "config"))) as archive:
            archive.extractall(folder, filter="data")
        yield Revision(folder, {IMAGE: str(_entrypoint(folder))})
    finally:
        shutil.rmtree(folder)


def _entrypoint(folder: Path) -> Path:
    """A virtual environment in which this folder comes before all that is installed, in the children of its processes too."""
    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    packages.joinpath("before.pth").write_text(f"{folder}\nimport site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    program = environment / "bin" / "dynvol"
    program.write_text(f"#!{python}\nimport sys\nfrom dynvol.cli import main\nsys.exit(main())\n")
    program.chmod(0o755)
    return program


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
