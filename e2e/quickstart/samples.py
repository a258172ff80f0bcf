"""config/samples, made to fit the quickstart's S3 server: the same objects, with its endpoint, its keys and its buckets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster.s3 import S3Server
from e2e.manifests import GROUP
from e2e.quickstart.arguments import PROJECT

SAMPLES = PROJECT / "config" / "samples"
NAMESPACE, WORKLOAD, ROOT = "dynamic-volume-test", "app-4-s3", "/user-defined-root-path"
CLAIM, BUCKET = "externalvolume-s3-sample", "my-bucket"
SECOND_CLAIM, SECOND_BUCKET = "second-bucket", "models"
FILE, SECOND_FILE = f"{ROOT}/data/hello.txt", f"{ROOT}/models/weights.txt"
CPU_LIMIT = "500m"
"""The sample class grants 10m, with which the first bucket of a pod takes some 20 seconds to appear."""

OBJECTS = {
    BUCKET: {"hello.txt": "hello from my-bucket\n", "images/one.txt": "one\n", "images/two.txt": "two\n"},
    SECOND_BUCKET: {"weights.txt": "0.1 0.2 0.3\n"},
}

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Samples:
    """The files to apply, as paths from the checkout, where they lie in it."""

    secret: str
    provider_class: str
    claim: str
    second_claim: str


def write(folder: Path, store: S3Server, *, cpu_limit: str) -> Samples:
    """`cpu_limit` is that of the class; empty leaves it as the sample has it."""
    folder.mkdir(parents=True, exist_ok=True)

    def secret(sample: Manifest) -> None:
        sample["stringData"] = {"access-key-id": store.access_key, "secret-access-key": store.secret_key}

    def provider_class(sample: Manifest) -> None:
        if cpu_limit:
            sample["spec"]["parameters"][f"{GROUP}/mount-cpu-limit"] = cpu_limit

    def claim(sample: Manifest) -> None:
        sample["spec"]["s3Config"] = {"bucket": BUCKET, "endpoint": store.endpoint}

    def second_claim(sample: Manifest) -> None:
        sample["metadata"]["name"] = SECOND_CLAIM
        sample["spec"] |= {"mountpoint": "/models", "s3Config": {"bucket": SECOND_BUCKET, "endpoint": store.endpoint}}

    return Samples(
        secret=_changed("secret.yaml", secret, folder / "secret.yaml"),
        provider_class=_changed("class.yaml", provider_class, folder / "class.yaml"),
        claim=_changed("claim.yaml", claim, folder / "claim.yaml"),
        second_claim=_changed("claim.yaml", second_claim, folder / "second-claim.yaml"),
    )


def _changed(sample: str, change: Callable[[Manifest], None], to: Path) -> str:
    manifest: Manifest = yaml.safe_load((SAMPLES / sample).read_text())
    change(manifest)
    to.touch(mode=0o600)
    to.write_text(yaml.safe_dump(manifest, sort_keys=False))
    return str(to.relative_to(PROJECT) if to.is_relative_to(PROJECT) else to)
