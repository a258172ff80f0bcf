"""Installing dynvol as its README says: what `config/default` makes of itself, applied in one go."""

from __future__ import annotations

import re
from pathlib import Path

from e2e.kubectl import Kubectl, eventually

CONFIG = Path(__file__).resolve().parents[2] / "config" / "default"
SYSTEM = "dynvol-system"
WORKLOADS = ("daemonset/dynvol-node", "deployment/dynvol-webhook")


def manifest(kubectl: Kubectl, *, folder: Path = CONFIG, image: str = "") -> str:
    """`folder` rendered; `image`, if given, takes the place of the one that it names."""
    rendered = kubectl("kustomize", str(folder))
    return re.sub(r"^( *(?:- )?image:) .*$", rf"\1 {image}", rendered, flags=re.MULTILINE) if image else rendered


def image(kubectl: Kubectl) -> str:
    """The one that is installed."""
    (container,) = kubectl.within(SYSTEM).get("daemonset", "dynvol-node")["spec"]["template"]["spec"]["containers"]
    found: str = container["image"]
    return found


def install(kubectl: Kubectl, wanted: str, *, within: float = 90.0) -> None:
    """Applies a manifest, also while an earlier removal is still under way, and waits until all of it runs. What comes too early is
    tried again by whoever needs it."""
    eventually(lambda: kubectl("apply", "-f", "-", stdin=wanted), within=within)
    for what in WORKLOADS:
        eventually(lambda what=what: rolled_out(kubectl, what), within=within)  # type: ignore[misc]


def rolled_out(kubectl: Kubectl, what: str) -> str:
    return kubectl.within(SYSTEM)("rollout", "status", what, "--timeout=60s", timeout=70)
