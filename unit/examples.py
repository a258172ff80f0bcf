"""How many examples hypothesis thinks of.

In the suite few, and the same ones each time. `DYNVOL_EXAMPLES=50 hack/test unit -k model --timeout 0` tries fifty times as many,
new ones each time, for as long as that takes; what it finds, hypothesis prints.
"""

from __future__ import annotations

import os
from typing import Any, Final

from hypothesis import HealthCheck, Phase, settings

_TIMES: Final = int(os.environ.get("DYNVOL_EXAMPLES", "1"))


def examples(few: int, **more: Any) -> settings:
    """Settings for a test that takes `few` examples in the suite."""
    return settings(
        max_examples=few * _TIMES,
        derandomize=_TIMES == 1,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        **more,
    )
