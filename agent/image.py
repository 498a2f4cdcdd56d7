"""One process image: one program in one process, from fork or exec to the next exec or the end."""

from dataclasses import dataclass

from agent.addresses import AddressTable
from agent.facts import Identity, ProcessFacts
from agent.snapshot import Snapshot

UNKNOWN_COMM = "[unknown]"
NOBODY = Identity(start=0, executable=None)
"""Of an image of which nothing could be read."""


@dataclass(slots=True, kw_only=True)
class Image:
    """One image. Written by the table only; readers take what they need once and keep it."""

    id: int
    tgid: int
    facts: ProcessFacts
    identity: Identity
    snapshot: Snapshot | None = None
    vdso: int = 0
    """Where it has its vDSO, known from exec on: the one place that the kernel resolves no address in."""
    told: int | None = None
    """The fingerprint of the snapshot that the kernel was told of: since then samples have bare addresses."""
    inherited: bool = False
    """Facts are the parent's as of the fork and not looked at since."""
    read_window: int = -1
    last_window: int = 0
    fruitless: int = 0
    """Readings in a row that found the same mappings."""
    retry_window: int = 0
    ended: bool = False

    @property
    def table(self) -> AddressTable | None:
        """Where its code lies; None before its mappings were read."""
        return self.snapshot.table if self.snapshot else None


def unknown_image(image_id: int, tgid: int, comm: str = "") -> Image:
    """An image of which nothing is known but what its event said."""
    facts = ProcessFacts(tgid=tgid, comm=comm or UNKNOWN_COMM)
    return Image(id=image_id, tgid=tgid, facts=facts, identity=NOBODY)
