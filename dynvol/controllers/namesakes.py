"""What to do about an object that was deleted and made anew under its name between the look at it and the write to it.

A uid in the body of a write is a help, but no more than that. A merge patch that names another uid than the object's is refused as
invalid; a server-side apply to `status` takes no notice of it, and lands on the namesake. So answers are looked at too. What did
land is corrected when the namesake's own event comes: who writes it works out the whole of it anew.
"""

from __future__ import annotations

from dynvol.api.meta import ObjectMeta
from dynvol.kube.errors import Invalid


class Superseded(Exception):
    """The object that was decided upon is gone, going, or another one by now. Its event brings the key back: decide again then."""


def expect_same(meant: ObjectMeta, written: ObjectMeta) -> None:
    """Raises Superseded if what was written is not the object that was meant."""
    if written.uid != meant.uid:
        raise Superseded(f"{meant.key} was made anew")


def is_of_namesake(error: Invalid) -> bool:
    """Whether a patch was refused because it names another uid, and for nothing else."""
    causes = error.status.causes
    return bool(causes) and all(cause.field == "metadata.uid" for cause in causes)
