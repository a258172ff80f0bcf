"""Makes this checkout's environment: a virtual environment with pinned packages, and the programs that the local cluster needs.

Standard library only: it runs before anything is installed, with whatever Python 3.11 or newer the machine has. Everything that it
installs for the project goes to `.venv`; Debian packages are installed only as root, only when missing, and it says so.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(os.environ.get("DYNVOL_VENV", ROOT / ".venv"))
STAMP = VENV / ".prepared"

# Program → the Debian package that has it.
PROGRAMS = {
    "runc": "runc",
    "s3fs": "s3fs",
    "rclone": "rclone",
    "fusermount3": "fuse3",
    "mount": "mount",
    "openssl": "openssl",
    "prometheus": "prometheus",
}
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""Which certificates pip trusts, on Debian."""
OLDEST_KUBECTL = (1, 31)
"""The first whose exec speaks WebSocket without being asked."""
KUBECTL_SUITE = "trixie"
"""The oldest Debian release whose kubectl is new enough; bookworm's kubernetes-client is 1.20."""


class Missing(Exception):
    """Something that only the person at the machine can provide. The message says what."""


def say(text: str) -> None:
    print(text, flush=True)


def prepare(*, programs: Sequence[str] = (), extra: str = "dev") -> Path:
    """The virtual environment's Python, with what one of the project's extras names. Quick when there is nothing to do."""
    if sys.version_info < (3, 11):  # noqa: UP036 - the one file that any Python may be asked to run
        raise Missing(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}")
    _debian(lacking_packages(programs))
    _virtual_environment(extra)
    if programs:
        _kubectl()
    return VENV / "bin" / "python"


def lacking_packages(programs: Sequence[str]) -> list[str]:
    """The Debian packages that `prepare` would install into the system."""
    lacking = [PROGRAMS[p] for p in programs if shutil.which(p, path=_path()) is None]
    if not _ready() and _lacks_venv():
        lacking.append("python3-venv")
    if not _ready() and not CERTIFICATES.exists():
        lacking.append("ca-certificates")
    return lacking


def environment() -> dict[str, str]:
    """What children get: the virtual environment first in PATH, and nothing that redirects TLS or Python behind their back."""
    kept = {k: v for k, v in os.environ.items() if k in ("HOME", "LANG", "TERM", "TMPDIR", "USER", "CI", "KUBEBUILDER_ASSETS")}
    return {**kept, "PATH": f"{VENV / 'bin'}:{_path()}", "VIRTUAL_ENV": str(VENV), "PYTHONUNBUFFERED": "1"}


def _path() -> str:
    sbin = "/usr/local/sbin:/usr/sbin:/sbin"
    return f"{os.environ.get('PATH', '/usr/local/bin:/usr/bin:/bin')}:{sbin}"


def _lacks_venv() -> bool:
    probe = "import ensurepip, venv"
    return subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode != 0


def _debian(packages: Sequence[str]) -> None:
    if not packages:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(f"please install: {', '.join(packages)} (as root on Debian: apt-get install {' '.join(packages)})")
    say(f"installing Debian packages: {' '.join(packages)}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    _run(["apt-get", "-q", "update"], env=quiet)
    _run(["apt-get", "-q", "install", "-y", "--no-install-recommends", *packages], env=quiet)


def _virtual_environment(extra: str) -> None:
    """What was once installed for `dev`, which holds the others, does for all."""
    wanted = hashlib.sha256(b"".join((ROOT / f).read_bytes() for f in ("pyproject.toml", "constraints.txt"))).hexdigest()
    if _stamp() in ([wanted, str(ROOT), extra], [wanted, str(ROOT), "dev"]):
        return
    began = time.monotonic()
    say(f"installing Python packages into {VENV}")
    if not _ready():
        _run([sys.executable, "-m", "venv", str(VENV)])
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off"]
    pip += ["--constraint", str(ROOT / "constraints.txt")]
    # The one that comes with Python is twice as slow.
    _run([*pip, "pip"], env=dict(os.environ))
    # Compiling all of it takes as long as the rest; what is imported, which is little of it, is compiled then and kept.
    _run([*pip, "--no-compile", "--editable", f"{ROOT}[{extra}]"], env=dict(os.environ))
    STAMP.write_text("\n".join([wanted, str(ROOT), extra]))
    say(f"  took {time.monotonic() - began:.0f} s")


def _ready() -> bool:
    return (VENV / "bin" / "pip").exists()


def _stamp() -> list[str]:
    return STAMP.read_text().splitlines() if STAMP.exists() else []


def _kubectl() -> None:
    """A kubectl that is new enough: the machine's, or Debian's from a later release, unpacked into the virtual environment."""
    found = shutil.which("kubectl", path=environment()["PATH"])
    if found and _version(found) >= OLDEST_KUBECTL:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(f"please install kubectl {'.'.join(map(str, OLDEST_KUBECTL))} or newer")
    say(f"fetching kubectl (Debian {KUBECTL_SUITE}'s) into {VENV}")
    with tempfile.TemporaryDirectory() as directory:
        _unpack_from_suite("kubectl", KUBECTL_SUITE, Path(directory))
        shutil.copy2(Path(directory, "unpacked/usr/bin/kubectl"), VENV / "bin" / "kubectl")


def _version(kubectl: str) -> tuple[int, ...]:
    done = subprocess.run([kubectl, "version", "--client"], capture_output=True, text=True, check=False)
    found = re.search(r"v(\d+)\.(\d+)", done.stdout)
    return tuple(map(int, found.groups())) if found else (0, 0)


def _unpack_from_suite(package: str, suite: str, directory: Path) -> None:
    """Downloads one package of another Debian release from the mirror that this machine uses, and unpacks it; installs nothing."""
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(COMPONENT)", "Created-By: Packages"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    mirrors = [
        uri for uri, origin, component in map(str.split, targets.stdout.splitlines()) if (origin, component) == ("Debian", "main")
    ]
    main = next((uri for uri in mirrors if "security" not in uri), None)
    if main is None:
        raise Missing(f"no Debian mirror is configured from which {package} could come; please install it")
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (directory / "sources.list").write_text(f"deb [signed-by={keyring}] {main} {suite} main\n")
    (directory / "status").touch()  # What is installed here must not sway which version is chosen.
    for made in ("lists/partial", "cache/archives/partial"):
        (directory / made).mkdir(parents=True)
    apart = ["-q", "-o", f"Dir::Etc::sourcelist={directory}/sources.list", "-o", "Dir::Etc::sourceparts=/dev/null"]
    apart += ["-o", f"Dir::State::lists={directory}/lists", "-o", f"Dir::Cache={directory}/cache"]
    apart += ["-o", f"Dir::State::status={directory}/status", "-o", "APT::Sandbox::User=root"]
    _run(["apt-get", *apart, "update"])
    _run(["apt-get", *apart, "download", package], cwd=directory)
    (archive,) = directory.glob(f"{package}_*.deb")
    _run(["dpkg", "-x", str(archive), str(directory / "unpacked")])


def _run(command: list[str], *, env: dict[str, str] | None = None, cwd: Path = ROOT) -> None:
    """Output is shown only when the command fails; while it runs, its last line shows that it lives."""
    lines: list[str] = []
    with subprocess.Popen(command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        with _pulse(lines):
            lines.extend(process.stdout)
    if process.returncode:
        raise Missing(f"{' '.join(command[:4])} … failed:\n{''.join(lines)[-4000:]}")


@contextmanager
def _pulse(lines: Sequence[str]) -> Iterator[None]:
    """Shows the newest of `lines` and the seconds: in one line over and over on a terminal, else now and then in a new one."""
    moving = sys.stdout.isatty()
    began = time.monotonic()
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.5 if moving else 15):
            text = f"  {time.monotonic() - began:.0f} s: {lines[-1].strip() if lines else 'starting'}"
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{text[:width]}" if moving else text[:132], end="" if moving else "\n", flush=True)

    pulse = threading.Thread(target=beat, name="pulse", daemon=True)
    pulse.start()
    try:
        yield
    finally:
        ended.set()
        pulse.join()
        if moving:
            print("\r\033[K", end="", flush=True)
