"""What administrators are told to run works as it is written. Installing, upgrading and removing have tests of their own."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from e2e.conftest import World
from e2e.grounds.installation import SYSTEM
from e2e.kubectl import Kubectl
from e2e.manifests import GROUP

TEXT = (Path(__file__).parents[1] / "config/README.md").read_text()


def told(heading: str, about: str) -> list[str]:
    """The arguments of the one kubectl command below a heading that has to do with something."""
    section = re.split(r"^#+ ", TEXT.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    blocks = "".join(re.findall(r"^```\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL))
    commands = re.split(r"^kubectl ", blocks, flags=re.MULTILINE)
    (command,) = (command for command in commands if about in command)
    return shlex.split(command, comments=True)


def test_the_commands_that_ask_whether_it_works_say_so(world: World) -> None:
    kubectl = Kubectl(world.kubectl.kubeconfig)
    assert kubectl(*told("Does it work?", "rollout status")).count("successfully rolled out") == 2
    header, *nodes = kubectl(*told("Does it work?", "get csinodes")).splitlines()
    assert header.split() == ["NODE", "DRIVERS"]
    assert [GROUP in node for node in nodes] == [True] * len(kubectl.list("nodes"))


def test_the_command_that_asks_a_node_process_what_it_lacks_is_answered(world: World) -> None:
    kubectl = Kubectl(world.kubectl.kubeconfig)
    (pod, *_) = kubectl.within(SYSTEM).list("pods", "--selector=app.kubernetes.io/component=node")
    command = [pod["metadata"]["name"] if word == "POD" else word for word in told("Does it work?", "readyz")]
    answer = kubectl(*command)
    assert "readyz check passed" in answer
    assert {"[+]csi ok", "[+]api-server ok"} <= set(answer.splitlines())
