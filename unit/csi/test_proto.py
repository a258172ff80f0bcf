"""What hack/generate writes: current, the standard's on the wire, and light at run time."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dynvol.csi.proto import pluginregistration as kubelet
from dynvol.csi.proto.csi import v1 as csi

REPOSITORY = Path(__file__).resolve().parents[2]


def _generate(repository: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / "hack" / "generate"), *arguments]
    return subprocess.run(command, cwd=cwd, env={}, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Of all that generating reads and writes."""
    (tmp_path / "hack").mkdir()
    shutil.copy(REPOSITORY / "hack" / "generate", tmp_path / "hack")
    shutil.copytree(REPOSITORY / "protos", tmp_path / "protos")
    for package in ("csi", "service"):
        shutil.copytree(REPOSITORY / "dynvol" / package / "proto", tmp_path / "dynvol" / package / "proto")
    return tmp_path


def test_what_is_committed_is_current(tmp_path: Path) -> None:
    checked = _generate(REPOSITORY, "--check", cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_stale_output_is_named_and_made_anew(copy: Path, tmp_path: Path) -> None:
    output = copy / "dynvol" / "csi" / "proto"
    (output / "message_pool.py").write_text("")
    (output / "csi" / "v1" / "__init__.py").unlink()
    (output / "gone").mkdir()
    (output / "gone" / "__init__.py").write_text("")
    checked = _generate(copy, "--check", cwd=tmp_path)
    assert checked.returncode == 1
    assert "dynvol/csi/proto is stale (csi/v1/__init__.py, gone/__init__.py, message_pool.py)" in checked.stderr
    assert "run hack/generate" in checked.stderr
    assert _generate(copy, cwd=tmp_path).returncode == 0
    assert _generate(copy, "--check", cwd=tmp_path).returncode == 0


def test_output_is_stale_when_a_protocol_has_changed(copy: Path, tmp_path: Path) -> None:
    text = (copy / "protos" / "csi.proto").read_text()
    (copy / "protos" / "csi.proto").write_text(text.replace("int64 max_volumes_per_node = 2", "int64 most = 2"))
    checked = _generate(copy, "--check", cwd=tmp_path)
    assert checked.returncode == 1
    assert "dynvol/csi/proto is stale (" in checked.stderr


def test_what_protoc_refuses_is_told_in_its_words_and_changes_nothing(copy: Path, tmp_path: Path) -> None:
    (copy / "protos" / "csi.proto").write_text('syntax = "proto3"; message {}')
    failed = _generate(copy, cwd=tmp_path)
    assert failed.returncode == 1
    assert "csi.proto:1" in failed.stderr
    assert (copy / "dynvol" / "csi" / "proto" / "csi" / "v1" / "__init__.py").stat().st_size > 10_000


def test_kubelets_bytes_are_understood() -> None:
    """Field numbers from the standard's text, written out by hand: 1 volume, 4 target, 5 capability, 6 readonly, 8 context."""
    sent = b"\x0a\x01v" + b"\x22\x02/t" + b"\x2a\x06\x12\x00\x1a\x02\x08\x01" + b"\x30\x01" + b"\x42\x06\x0a\x01k\x12\x01x"
    request = csi.NodePublishVolumeRequest.parse(sent)
    assert (request.volume_id, request.target_path, request.readonly) == ("v", "/t", True)
    assert request.volume_context == {"k": "x"}
    assert request.volume_capability is not None
    assert request.volume_capability.mount is not None
    assert request.volume_capability.block is None
    assert request.volume_capability.access_mode is not None
    assert request.volume_capability.access_mode.mode is csi.VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER


def test_our_bytes_are_the_standards() -> None:
    assert bytes(csi.NodeGetInfoResponse(node_id="n")) == b"\x0a\x01n"
    assert bytes(csi.ProbeResponse(ready=True)) == b"\x0a\x02\x08\x01"
    assert bytes(csi.ProbeResponse(ready=False)) == b"\x0a\x00"
    able = csi.NodeServiceCapability(rpc=csi.NodeServiceCapabilityRpc(type=csi.NodeServiceCapabilityRpcType.VOLUME_CONDITION))
    assert bytes(csi.NodeGetCapabilitiesResponse(capabilities=[able])) == b"\x0a\x04\x0a\x02\x08\x04"
    info = kubelet.PluginInfo(type="C", name="n", endpoint="e", supported_versions=["1"])
    assert bytes(info) == b"\x0a\x01C\x12\x01n\x1a\x01e\x22\x011"


def test_an_access_mode_of_a_later_version_of_the_standard_is_no_error() -> None:
    mode = csi.VolumeCapabilityAccessMode.parse(b"\x08\x63")
    assert int(mode.mode) == 99


def test_neither_protobuf_nor_grpcio_is_needed_at_run_time() -> None:
    script = "import sys, dynvol.csi.server, dynvol.csi.kernel; print({'grpc', 'google.protobuf', 'google.rpc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, env={}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
