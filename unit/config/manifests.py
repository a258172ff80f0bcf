"""The manifests of config/, as kustomize renders them."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIG = Path(__file__).parents[2] / "config"
Manifest = dict[str, Any]

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl, whose kustomize renders config/")


@cache
def rendered(base: str) -> tuple[Manifest, ...]:
    """Everything that `kubectl apply -k config/<base>` would send."""
    command = ["kubectl", "kustomize", str(CONFIG / base)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return tuple(m for m in yaml.safe_load_all(output) if m)


def one(base: str, kind: str, name: str = "") -> Manifest:
    (found,) = (m for m in rendered(base) if m["kind"] == kind and name in ("", m["metadata"]["name"]))
    return found


def definition(plural: str) -> Manifest:
    """A CustomResourceDefinition, straight from its file."""
    loaded: Manifest = yaml.safe_load((CONFIG / "crd" / f"{plural}.yaml").read_text())
    return loaded


def schema(plural: str) -> Manifest:
    (version,) = definition(plural)["spec"]["versions"]
    found: Manifest = version["schema"]["openAPIV3Schema"]
    return found
