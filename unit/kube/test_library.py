"""Each test asks an interpreter of its own: what is imported here has been imported already."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_models_are_not_loaded() -> None:
    said = python("""
        import sys
        from dynvol.kube.library import load
        assert load().narrowed
        assert not [m for m in sys.modules if m.startswith(("kubernetes_asyncio", "urllib3"))], "something is left behind"
        import gc
        names = {str(c.__module__) for c in gc.get_objects() if isinstance(c, type)}
        print(sorted(n for n in names if n.startswith("kubernetes_asyncio.client.models")))
    """)
    assert said.strip() == "[]"


def test_whoever_wants_the_whole_library_gets_it_before_or_after() -> None:
    for narrowed, first, second in ((True, "load()", "import kubernetes_asyncio"), (False, "import kubernetes_asyncio", "load()")):
        python(f"""
            from dynvol.kube.library import load
            {first}
            {second}
            import kubernetes_asyncio
            import urllib3
            assert kubernetes_asyncio.client.CoreV1Api and kubernetes_asyncio.config.load_kube_config and urllib3.PoolManager
            assert load().narrowed is {narrowed}
            load().configuration()
        """)


def test_another_layout_of_the_library_costs_memory_and_nothing_else() -> None:
    said = python("""
        from dynvol.kube import library
        import importlib
        original = importlib.import_module
        def moved(name, package=None):
            if name.endswith("incluster_config") and library.NAME + ".dynamic" not in library.sys.modules:
                raise ModuleNotFoundError("moved elsewhere")
            return original(name, package)
        library.importlib.import_module = moved
        loaded = library.load()
        assert not loaded.narrowed
        assert loaded.rest.RESTClientObject
    """)
    assert "not laid out as expected" in said


def test_its_own_log_of_bodies_is_silent() -> None:
    said = python("""
        import logging
        logging.basicConfig(level=logging.DEBUG)
        from dynvol.kube.library import load
        load().rest.logger.error("a body")
    """)
    assert "a body" not in said


@pytest.mark.parametrize("module", ["dynvol.kube.client", "dynvol.kube.events"])
def test_importing_the_door_does_not_import_the_library_yet(module: str) -> None:
    python(f"""
        import sys, {module}
        assert "kubernetes_asyncio" not in sys.modules
    """)
