from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from dynvol.api.resources import PODS
from dynvol.kube import credentials, errors
from dynvol.kube.client import KubeClient
from dynvol.kube.configuration import connect
from e2e.grounds.pki import Authority

from .server import Script, kubeconfig, pod, refuses, says, server_context, serving


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


async def test_a_client_certificate_within_a_kubeconfig_is_used_and_no_key_is_left_in_a_file(
    authority: Authority, script: Script, tmp_path: Path, scratch: Path
) -> None:
    pair = authority.client("admin")
    user = {"client-certificate-data": base64_of(pair.certificate), "client-key-data": base64_of(pair.key)}
    script.then(says(pod()))
    async with serving(script, tls=server_context(authority, tmp_path, client_certificates=True)) as url:
        config = kubeconfig(
            tmp_path / "k", url, user=user, cluster={"certificate-authority-data": base64_of(authority.certificate)}
        )
        async with KubeClient.connect(config) as client:
            assert os.listdir(scratch) == []
            await client.get(PODS, "web", namespace="ns")
        # And once more: the library remembers files by their content.
        async with KubeClient.connect(config) as client:
            await client.get(PODS, "web", namespace="ns")
    assert len(script.seen) == 2


async def test_a_server_with_a_foreign_certificate_is_not_spoken_to(authority: Authority, script: Script, tmp_path: Path) -> None:
    script.then(says(pod()))
    other = {"certificate-authority-data": base64_of(Authority().certificate)}
    async with (
        serving(script, tls=server_context(authority, tmp_path)) as url,
        KubeClient.connect(kubeconfig(tmp_path / "k", url, user={"token": "t"}, cluster=other)) as client,
    ):
        with pytest.raises(errors.Unreachable, match="its certificate is not trusted"):
            await client.get(PODS, "web", namespace="ns")
    assert script.seen == []


async def test_a_token_of_a_kubeconfig_is_sent(script: Script, tmp_path: Path) -> None:
    script.then(says(pod()))
    async with serving(script) as url, KubeClient.connect(kubeconfig(tmp_path / "k", url, user={"token": "abc"})) as client:
        await client.get(PODS, "web", namespace="ns")
    assert script.seen[0].headers["Authorization"] == "Bearer abc"


async def test_a_token_file_beside_the_kubeconfig_is_read_again_when_refused(script: Script, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old\n")
    script.then(refuses(401, "Unauthorized")).then(says(pod()))
    async with serving(script) as url, KubeClient.connect(kubeconfig(tmp_path / "k", url, user={"tokenFile": "token"})) as client:
        with pytest.raises(errors.Unauthorized):
            await client.get(PODS, "web", namespace="ns")
        file.write_text("new\n")
        await client.get(PODS, "web", namespace="ns")
    assert [s.headers["Authorization"] for s in script.seen] == ["Bearer old", "Bearer new"]


async def test_a_credential_plugin_is_asked(script: Script, tmp_path: Path) -> None:
    said = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "from-plugin"}}
    plugin = {"command": sys.executable, "args": ["-c", f"print({json.dumps(json.dumps(said))})"], "apiVersion": said["apiVersion"]}
    script.then(says(pod()))
    async with serving(script) as url, KubeClient.connect(kubeconfig(tmp_path / "k", url, user={"exec": plugin})) as client:
        await client.get(PODS, "web", namespace="ns")
    assert script.seen[0].headers["Authorization"] == "Bearer from-plugin"


async def test_the_loopback_address_is_reached_without_a_proxy(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    script.then(says(pod()))
    async with serving(script) as url, KubeClient.connect(kubeconfig(tmp_path / "k", url)) as client:
        await client.get(PODS, "web", namespace="ns")
    assert len(script.seen) == 1


async def test_any_other_address_is_reached_through_the_environments_proxy(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.then(says(pod()))
    async with serving(script) as url:
        monkeypatch.setenv("HTTP_PROXY", url)
        monkeypatch.setenv("NO_PROXY", "")
        async with KubeClient.connect(kubeconfig(tmp_path / "k", "http://api.example:6443")) as client:
            await client.get(PODS, "web", namespace="ns")
    assert script.seen[0].headers["Host"] == "api.example:6443"


def service_account(directory: Path, authority: Authority, *, token: str) -> Path:
    directory.mkdir()
    (directory / "token").write_text(token)
    (directory / "ca.crt").write_bytes(authority.certificate)
    return directory


def in_a_pod(url: str) -> dict[str, str]:
    host, port = url.removeprefix("https://").split(":")
    return {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}


async def test_a_pod_speaks_with_its_service_account(authority: Authority, script: Script, tmp_path: Path) -> None:
    account = service_account(tmp_path / "account", authority, token="projected\n")
    script.then(says(pod()))
    async with (
        serving(script, tls=server_context(authority, tmp_path)) as url,
        connect(service_account=account, environment=in_a_pod(url)) as connection,
    ):
        await connection.call("GET", "/x")
    assert script.seen[0].headers["Authorization"] == "Bearer projected"


async def test_a_projected_token_is_read_again_within_a_minute(
    authority: Authority, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = service_account(tmp_path / "account", authority, token="first")
    script.then(says(pod()))
    async with (
        serving(script, tls=server_context(authority, tmp_path)) as url,
        connect(service_account=account, environment=in_a_pod(url)) as connection,
    ):
        await connection.call("GET", "/x")
        (account / "token").write_text("second")
        await connection.call("GET", "/x")
        monkeypatch.setattr(credentials.Token, "_is_fresh", lambda _: False)
        await connection.call("GET", "/x")
    assert [s.headers["Authorization"] for s in script.seen] == ["Bearer first", "Bearer first", "Bearer second"]


@pytest.mark.looptime
async def test_a_token_is_kept_for_a_minute_and_no_longer() -> None:
    tokens = iter(["Bearer 1", "Bearer 2"])

    async def read() -> str:
        return next(tokens)

    configuration = type("Configuration", (), {"api_key": {}})()
    token = credentials.Token(read)
    await token.refresh(configuration)
    await asyncio.sleep(credentials.PERIOD - 1)
    await token.refresh(configuration)
    assert configuration.api_key == {"BearerToken": "Bearer 1"}
    await asyncio.sleep(1)
    await token.refresh(configuration)
    assert configuration.api_key == {"BearerToken": "Bearer 2"}


async def test_a_token_that_cannot_be_read_again_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    configuration = type("Configuration", (), {"api_key": {"BearerToken": "Bearer old"}})()
    for broken in (tmp_path / "missing", tmp_path / "empty"):
        (tmp_path / "empty").write_text("")
        await credentials.Token(credentials.token_file(broken)).refresh(configuration)
    assert configuration.api_key == {"BearerToken": "Bearer old"}
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"current-context": "x"}',
        '{"current-context": "x", "contexts": [], "clusters": []}',
        '{"current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "none"}}], "clusters": []}',
    ],
)
async def test_a_broken_kubeconfig_is_a_clear_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(content)
    await refused(kubeconfig=path, says_path=path)


async def test_a_missing_kubeconfig_is_a_clear_error(tmp_path: Path) -> None:
    await refused(kubeconfig=tmp_path / "none", says_path=tmp_path / "none")


async def test_outside_a_pod_a_kubeconfig_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigurationError, match="no --kubeconfig given"):
        async with connect(service_account=tmp_path, environment={}):
            pass


async def test_a_pod_without_a_token_says_so(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigurationError, match="token"):
        async with connect(service_account=tmp_path, environment=in_a_pod("https://127.0.0.1:1")):
            pass


async def refused(*, says_path: Path, **options: Any) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        async with connect(**options):
            pass
    assert str(says_path) in str(caught.value)
    assert not caught.value.retryable
