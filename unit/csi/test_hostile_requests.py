"""Requests that no kubelet would send: bytes that are no message, and messages whose every field is somebody's invention."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Sequence
from pathlib import PurePosixPath

from grpclib.client import Channel
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError
from grpclib.testing import ChannelFor
from hypothesis import given
from hypothesis import strategies as st

from dynvol.csi.errors import CODES
from dynvol.csi.identity import IdentityService
from dynvol.csi.node import NodeService
from dynvol.csi.proto.csi import v1 as csi
from dynvol.rpc.calls import Calls, Service, unobserved
from dynvol.rpc.operations import Operations
from unit.csi.wishes import KUBELET_DIR, POD_UID, Kernel, context, filesystem, node, publish_request, stats_request, target_path
from unit.examples import examples

ANSWERS = {Status.OK, Status.INVALID_ARGUMENT, Status.NOT_FOUND, Status.UNIMPLEMENTED}
"""All that a caller can be told of its own mistakes. None of them leaves a trace in the log, as a fault of ours would."""

METHODS = ["NodePublishVolume", "NodeUnpublishVolume", "NodeGetVolumeStats", "NodeGetInfo", "NodeStageVolume"]

crooked = st.sampled_from(
    ["", ".", "..", "/", "../../../etc", "/etc", "a/b", "a\0b", "a\nb", "-rf", "é", " ", "x" * 300, "A", "true", "shared", POD_UID]
) | st.text(max_size=20)
paths = st.lists(crooked | st.just("pods") | st.just("volumes") | st.just("kubernetes.io~csi"), max_size=6).map("/".join)
targets = st.just(target_path()) | paths.map(lambda tail: f"{KUBELET_DIR}/{tail}") | paths
contexts = st.dictionaries(st.sampled_from(sorted(context())), crooked, max_size=3).map(lambda bad: context() | bad)
publications = st.builds(
    csi.NodePublishVolumeRequest,
    volume_id=st.just("v") | crooked,
    target_path=targets,
    volume_capability=st.sampled_from([None, filesystem(), filesystem("bind"), csi.VolumeCapability()]),
    readonly=st.booleans(),
    secrets=st.dictionaries(crooked, crooked, max_size=2),
    volume_context=contexts,
)


class Raw:
    """A message as it is on the wire."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def SerializeToString(self) -> bytes:
        return self.data

    @classmethod
    def FromString(cls, data: bytes) -> Raw:
        return cls(data)


async def told(channel: Channel, method: str, data: bytes) -> Status:
    async with channel.request(f"/csi.v1.Node/{method}", Cardinality.UNARY_UNARY, Raw, Raw) as stream:
        try:
            await stream.send_message(Raw(data), end=True)
            await stream.recv_message()
            await stream.recv_trailing_metadata()
        except GRPCError as error:
            return error.status
    return Status.OK


async def answers(calls: Sequence[tuple[str, bytes]], kernel: Kernel) -> list[Status]:
    """What a server says to each, and last to a request without fault."""
    guard = Calls(CODES, unobserved).guard
    async with Operations() as operations:
        services: list[Service] = [
            IdentityService(version="1", ready=lambda: True),
            NodeService(kernel, node=node(), operations=operations),
        ]
        async with ChannelFor([guard(service) for service in services]) as channel:
            said = [await told(channel, method, data) for method, data in calls]
            return [*said, await told(channel, "NodePublishVolume", bytes(publish_request()))]


@examples(15)
@given(st.lists(st.tuples(st.sampled_from(METHODS), st.binary(max_size=200)), min_size=1, max_size=20))
def test_bytes_that_are_no_message_are_the_callers_mistake(calls: list[tuple[str, bytes]]) -> None:
    *said, last = asyncio.run(answers(calls, Kernel()))
    assert set(said) <= ANSWERS
    assert last is Status.OK


@examples(15)
@given(st.lists(st.tuples(st.integers(0, 600), st.binary(max_size=8), st.integers(0, 8)), min_size=1, max_size=20))
def test_a_message_with_a_few_wrong_bytes_is_the_callers_mistake(edits: list[tuple[int, bytes, int]]) -> None:
    whole = bytes(publish_request())
    kernel = Kernel()
    *said, last = asyncio.run(
        answers([("NodePublishVolume", whole[:at] + noise + whole[at + cut :]) for at, noise, cut in edits], kernel)
    )
    assert set(said) <= ANSWERS
    assert last is Status.OK
    all_in_their_places(kernel)


@examples(25)
@given(st.lists(publications, min_size=1, max_size=20), st.lists(targets, max_size=10))
def test_no_field_leads_out_of_kubelets_and_our_own_directories(
    wanted: list[csi.NodePublishVolumeRequest], looked: list[str]
) -> None:
    kernel = Kernel()
    calls = [("NodePublishVolume", bytes(request)) for request in wanted]
    calls += [("NodeUnpublishVolume", bytes(csi.NodeUnpublishVolumeRequest(volume_id="v", target_path=path))) for path in looked]
    calls += [("NodeGetVolumeStats", bytes(csi.NodeGetVolumeStatsRequest(volume_id="v", volume_path=path))) for path in looked]
    *said, last = asyncio.run(answers(calls, kernel))
    assert set(said) <= ANSWERS
    assert last is Status.OK
    all_in_their_places(kernel)


def all_in_their_places(kernel: Kernel) -> None:
    for target, directory in kernel.published.items():
        assert posixpath.normpath(str(target)) == str(target)
        assert target.parts[:5] == ("/", "var", "lib", "kubelet", "pods")
        assert posixpath.normpath(str(directory)) == str(directory)
        assert directory.parts[:5] == ("/", "var", "lib", "dynamic", "xvols")
        assert len(directory.parts) == 8, "class, uuid, pod's uid"
        assert target.parts[5] == directory.name
    assert PurePosixPath(stats_request().volume_path) in kernel.published
