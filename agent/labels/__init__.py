"""Labels of a process: facts in, labels out, by way of the operator's `relabel_configs`.

    facts -> cgroup (place) -> names (container) -> meta + derived labels -> relabel -> labels without `__*`

Rules see the derived labels (`service`, `comm`, `exe`, `container`, `unit`, `build`, and `pid`, `thread` where asked
for) beside the `__meta_*` ones, may keep and drop on them, change and remove them. What they leave is final: nothing
is filled in afterwards. Nothing here blocks but `Labeller.refresh`.
"""

from dataclasses import dataclass

from agent.facts import ProcessFacts
from agent.labels.cgroup import parse_cgroup
from agent.labels.config import LabelConfig
from agent.labels.engine import Container
from agent.labels.meta import meta_labels
from agent.labels.names import ContainerNames
from agent.labels.relabel import RESERVED, clean, relabel
from agent.labels.service import derive_service
from fleetflame.model import Labels
from fleetflame.wire import MAX_LABELS

__all__ = ["LabelConfig", "Labeller"]

DERIVED = ("service", "comm", "exe", "container", "unit", "build", "pid", "thread")
"""Labels that are there without a rule, where they have a value; the last two only where asked for."""

MAX_CACHED = 1024
"""Label sets remembered, 1 to 3 KiB each with the facts of their process. A busy host samples 500 processes in a
window; those that have ended stay until they are the oldest, and 8,192 of them took an agent 6 MB over its budget."""


@dataclass(frozen=True, slots=True)
class _Cached:
    facts: ProcessFacts
    container_id: str
    container: Container | None
    labels: Labels | None


class Labeller:
    """Labels of processes by `config`. One thread calls `labels`; any may call the rest."""

    def __init__(self, config: LabelConfig) -> None:
        self._config = config
        self._names = ContainerNames(config.container_sockets, config.kubernetes_logs)
        self._cache: dict[tuple[int, str], _Cached] = {}
        self.computed = 0

    def labels(self, facts: ProcessFacts, *, thread: str = "") -> Labels | None:
        """The labels of a process, or of its thread of that name; None if a rule dropped it. `node` is never among
        them.

        Cheap when asked again with the same object. Never waits: until an engine has been asked for a container (see
        `notice`), its name is missing.
        """
        key = (id(facts), thread)
        cached = self._cache.pop(key, None)
        if not (cached and cached.facts is facts and cached.container is self._names.find(cached.container_id)):
            cached = self._compute(facts, thread)
        if len(self._cache) >= MAX_CACHED:
            del self._cache[next(iter(self._cache))]
        # At the end again: the first is the one that nobody wanted for longest. Holding the facts keeps their id
        # theirs.
        self._cache[key] = cached
        return cached.labels

    def notice(self, facts: ProcessFacts) -> None:
        """Say that this process will want labels, so that its container's name is there with its first samples."""
        self._names.find(parse_cgroup(facts.cgroup).container)

    def refresh(self) -> int:
        """Ask engines for the containers whose names are wanted; how many. Blocks for seconds at worst: off the hot
        path, every second or so. Never raises for what an engine does."""
        return self._names.refresh()

    def _compute(self, facts: ProcessFacts, thread: str) -> _Cached:
        self.computed += 1
        place = parse_cgroup(facts.cgroup)
        container = self._names.find(place.container)
        labels = meta_labels(facts, place, container)
        derived = {
            "service": derive_service(facts, place, container),
            "comm": facts.comm,
            "exe": facts.exe,
            "container": (container.name if container else "") or place.container,
            "unit": place.unit,
            "build": str(facts.build_id or ""),
            "pid": str(facts.tgid) if self._config.pid_label else "",
            "thread": thread,
        }
        labels |= {name: clean(value) for name, value in derived.items() if value}
        kept = relabel(self._config.relabel_configs, labels)
        return _Cached(facts, place.container, container, None if kept is None else _visible(kept))


def _visible(labels: dict[str, str]) -> Labels:
    """What leaves the node. Of more labels than a message may have per series the derived ones go first."""
    items = [item for item in labels.items() if not item[0].startswith("__") and item[0] != RESERVED]
    if len(items) > MAX_LABELS:
        items = sorted(items, key=lambda item: (item[0] not in DERIVED, item[0]))[:MAX_LABELS]
    return tuple(sorted(items))
