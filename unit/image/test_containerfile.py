"""The image is made of what is pinned and of what is there, and agrees with the manifests that run it.

What the file builds is not tried here: that takes a registry or a base of one's own, and minutes.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from dynvol.cli import main

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's, with their arguments: comments are gone, continued lines one."""
    lines = [line for line in (ROOT / "Containerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def arguments(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def default(argument: str) -> str:
    (found,) = (rest.partition("=")[2] for rest in arguments("ARG") if rest.startswith(f"{argument}="))
    return found


def copied() -> set[str]:
    """What is taken from the checkout."""
    sources = (rest.split()[:-1] for rest in arguments("COPY") if not rest.startswith("--from="))
    return {source for some in sources for source in some}


def test_every_stage_stands_on_the_base_that_is_pinned_by_its_digest() -> None:
    assert {stage.split()[0] for stage in arguments("FROM")} == {"${BASE}"}
    assert re.fullmatch(r"docker\.io/library/debian:bookworm-\d{8}-slim@sha256:[0-9a-f]{64}", default("BASE"))


def test_builders_are_sent_what_is_copied_and_nothing_else() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied()
    assert all((ROOT / source).exists() for source in copied())


def test_the_package_finds_the_files_that_its_metadata_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"]} <= copied()


def test_the_version_is_everywhere_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (image,) = yaml.safe_load((ROOT / "config/default/kustomization.yaml").read_text())["images"]
    assert {default("VERSION"), image["newTag"]} == {version}
    with pytest.raises(SystemExit, match="^0$"):
        main(["--version"])
    assert capsys.readouterr().out == f"dynvol {version}\n"


def test_the_webhook_runs_as_the_user_that_the_image_has() -> None:
    (user,) = (re.search(r"useradd --uid (\d+) --gid (\d+)", rest) for rest in arguments("RUN") if "useradd" in rest)
    assert user
    deployment = next(yaml.safe_load_all((ROOT / "config/webhook/deployment.yaml").read_text()))
    context = deployment["spec"]["template"]["spec"]["securityContext"]
    assert [str(context["runAsUser"]), str(context["runAsGroup"])] == list(user.groups())


def test_no_client_is_fetched_unless_it_is_asked_for() -> None:
    """And then by a checksum that is given with it: none is known to the file that could grow old."""
    for client in ("GEESEFS", "MOUNT_S3"):
        assert {default(f"{client}_{what}") for what in ("VERSION", "SHA256_AMD64", "SHA256_ARM64")} == {'""'}
