"""kubernetes_asyncio without its models.

Importing any part of kubernetes_asyncio runs the `__init__` of the package and of `client`, which load every API class and
model there is: 500 ms and 62 MiB, in a process that runs on every node and uses none of them. What is used here (the
configuration, its two loaders, the transport) lies in modules that need only each other. So they are imported with hollow
packages standing in for those whose `__init__` is so dear: module objects that have a search path and nothing else.

The hollow packages and what was imported through them leave `sys.modules` again, so whoever else imports kubernetes_asyncio
gets the whole of it. Should another version of the library be laid out otherwise, the ordinary import is made instead and a
warning says so: dynvol then takes more memory and works the same.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

log = logging.getLogger(__name__)

NAME: Final = "kubernetes_asyncio"
_HOLLOW: Final = (NAME, f"{NAME}.client", f"{NAME}.config")
_NEEDLESS: Final = "urllib3"
"""Imported by the configuration for the header of basic authentication, which it never sends: hollow too, with nothing in it."""


@dataclass(frozen=True, slots=True)
class Library:
    """What is used of kubernetes_asyncio. Untyped, as it is itself."""

    configuration: Any
    """The class `client.configuration.Configuration`."""
    rest: Any
    """The module `client.rest`."""
    incluster: Any
    """The module `config.incluster_config`."""
    kubeconfig: Any
    """The module `config.kube_config`."""
    narrowed: bool
    """Whether the models were kept out."""


@functools.cache
def load() -> Library:
    """The library, narrowed if it can be. Blocks for about 150 ms the first time, so call it while the process starts."""
    library = (None if NAME in sys.modules else _narrowed()) or _import(narrowed=False)
    # At DEBUG it prints the bodies of answers, Secrets among them.
    logging.getLogger(library.rest.__name__).disabled = True
    return library


def _narrowed() -> Library | None:
    try:
        with _hollow_packages():
            return _import(narrowed=True)
    except (ImportError, AttributeError) as error:
        log.warning("%s is not laid out as expected (%s); importing all of it, which takes 35 MiB more", NAME, error)
        return None


def _import(*, narrowed: bool) -> Library:
    configuration = importlib.import_module(f"{NAME}.client.configuration").Configuration
    if narrowed:
        # The loaders import ApiClient and Configuration from the package. ApiClient is what pulls in the models; it is only
        # made by functions that are not called here.
        client: Any = sys.modules[f"{NAME}.client"]
        client.Configuration, client.ApiClient = configuration, None
    return Library(
        configuration=configuration,
        rest=importlib.import_module(f"{NAME}.client.rest"),
        incluster=importlib.import_module(f"{NAME}.config.incluster_config"),
        kubeconfig=importlib.import_module(f"{NAME}.config.kube_config"),
        narrowed=narrowed,
    )


@contextmanager
def _hollow_packages() -> Iterator[None]:
    """`import kubernetes_asyncio.client.x` runs x and no `__init__`, until the block ends. Leaves no trace in `sys.modules`."""
    spec = importlib.util.find_spec(NAME)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{NAME} is not installed", name=NAME)
    root = spec.submodule_search_locations[0]
    hollow = {name: _hollow(name, root=root) for name in _HOLLOW}
    if _NEEDLESS not in sys.modules:
        hollow[_NEEDLESS] = ModuleType(_NEEDLESS)
    try:
        sys.modules.update(hollow)
        yield
    finally:
        for name in [n for n in sys.modules if n in hollow or n.startswith(f"{NAME}.")]:
            del sys.modules[name]


def _hollow(name: str, *, root: str) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = [os.path.join(root, *name.split(".")[1:])]
    return module
