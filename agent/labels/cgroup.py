"""Where a process lives, read off the text of `/proc/PID/cgroup`: container, pod, systemd unit. Pure.

A line is `hierarchy:controllers:path` (cgroups(7)); cgroup v2 is the line `0::path`. One line is chosen and everything
is read from it, because on hybrid hosts the others mislead: an engine that manages v1 leaves its containers' processes
in its **own** service on v2. Paths are untrusted beyond their shape: whoever may make a cgroup may name it.

How the engines name a container's cgroup, where ID is 64 hex digits:

    docker      /docker/ID                     docker-ID.scope
    containerd  kubepods/../podUID/ID          cri-containerd-ID.scope
    nerdctl     /default/ID                    nerdctl-ID.scope
    CRI-O       kubepods/../podUID/crio-ID     crio-ID.scope[/container]
    podman      libpod_parent[/POD]/libpod-ID  libpod-ID.scope[/container]
                foo.service/libpod-payload-ID  (--cgroups=split, what quadlets use)
    LXC         /lxc/NAME                      /lxc.payload.NAME

and `SLICE:cri-containerd:ID` where containerd and the kubelet disagree about who drives cgroups.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

MAX_LINES = 64
"""Lines looked at. v1 had 14 controllers at most, and one named hierarchy per software that mounts its own."""

RUNTIMES = {
    "docker": "docker",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "cri-o",
    "libpod": "podman",
    "libpod-payload": "podman",
}
"""What stands before the ID in a cgroup's name -> `__meta_container_runtime`."""

_UNIT = re.compile(r".+\.(?:service|scope|socket|mount|swap)")
_PREFIXED = re.compile(r"(?:(?P<prefix>[a-z][a-z0-9_-]*)-)?(?P<id>[0-9a-f]{64})(?:\.scope)?")
_COLONS = re.compile(r"[^:]+:(?P<prefix>[a-z][a-z0-9-]*):(?P<id>[0-9a-f]{64})")
# A static pod's UID is a hash without dashes; systemd wants `-` for its hierarchy, so the kubelet writes `_`.
_POD = re.compile(r"(?:.*-)?pod(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?")
_ESCAPES = re.compile(r"(?:\\x[0-9a-fA-F]{2})+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What one path says; "" where it says nothing.

    `systemd_unit` is the innermost unit, an engine's scope around a container included. `unit` is the one that means
    something to people: not such a scope, and not a unit outside the container that the process is in.
    """

    path: str = ""
    container: str = ""
    runtime: str = ""
    pod_uid: str = ""
    systemd_unit: str = ""
    unit: str = ""
    slice: str = ""


class _Container(NamedTuple):
    id: str
    runtime: str
    at: int
    """Which component of the path names it."""


@lru_cache(maxsize=1024)
def parse_cgroup(text: str) -> Place:
    """The place that `/proc/PID/cgroup` tells of: from the first line that names a container, else a unit, else a path.

    Lines are tried in the order v2, systemd's own v1 hierarchy, the rest as they come. Never fails: what is not
    understood is passed over.
    """
    places = [parse_path(path) for path in _paths(text)]
    for has in (_in_container, _in_unit, _in_path):
        for place in places:
            if has(place):
                return place
    return places[0] if places else Place()


def parse_path(path: str) -> Place:
    """The place that one cgroup path tells of. `..`, as seen from inside a cgroup namespace, is passed over."""
    parts = _components(path)
    pod_uid = ""
    if "kubepods" in path:
        pod_uid = next((uid for part in reversed(parts) if (uid := _pod_uid(part))), "")
    container = _innermost(parts)
    systemd_unit = next((unit for part in reversed(parts) if (unit := _unit(part))), "")
    return Place(
        path=path,
        container=container.id,
        runtime=container.runtime,
        pod_uid=pod_uid,
        systemd_unit=systemd_unit,
        unit=_meaningful_unit(parts, container),
        slice=next((unescape(part) for part in reversed(parts) if part.endswith(".slice")), ""),
    )


def unescape(name: str) -> str:
    """A unit's name as people write it: `\\x2d` is `-` (systemd.unit(5), "String Escaping").

    systemd puts `_` before names that would collide with the kernel's own files (`cg_escape`, src/basic/cgroup-util.c).
    """
    plain = _ESCAPES.sub(
        lambda match: bytes.fromhex(match[0].replace("\\x", "")).decode("utf-8", errors="replace"), name
    )
    return plain[1:] if plain.startswith("_") and _UNIT.fullmatch(plain) else plain


def _paths(text: str) -> list[str]:
    ranked: list[tuple[int, str]] = []
    for line in text.splitlines()[:MAX_LINES]:
        fields = line.split(":", 2)
        if len(fields) != 3 or not fields[2].startswith("/"):
            continue
        hierarchy, controllers, path = fields
        rank = 0 if hierarchy == "0" and not controllers else 1 if controllers == "name=systemd" else 2
        ranked.append((rank, path.removesuffix(" (deleted)")))
    return [path for _, path in sorted(ranked, key=lambda pair: pair[0])]


def _components(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".", "..")]


def _innermost(parts: list[str]) -> _Container:
    for index in range(len(parts) - 1, -1, -1):
        found = _container(parts[index], parts[index - 1] if index else "")
        if found:
            return _Container(*found, index)
    return _Container("", "", -1)


def _container(part: str, parent: str) -> tuple[str, str] | None:
    """(ID, runtime) if the component is a container's cgroup."""
    if match := _COLONS.fullmatch(part):
        return match["id"], RUNTIMES.get(match["prefix"], "")
    if match := _PREFIXED.fullmatch(part):
        prefix = match["prefix"] or parent
        # podman's pod has an ID of the same form; conmon watches over a container from outside of it.
        if prefix == "libpod_parent" or _is_monitor(prefix):
            return None
        return match["id"], RUNTIMES.get(prefix, "")
    if part.startswith("lxc.payload."):
        return part.removeprefix("lxc.payload."), "lxc"
    return (part, "lxc") if parent == "lxc" else None


def _is_monitor(prefix: str) -> bool:
    return prefix == "conmon" or prefix.endswith("-conmon")


def _unit(part: str) -> str:
    return unescape(part) if _UNIT.fullmatch(part) else ""


def _meaningful_unit(parts: list[str], container: _Container) -> str:
    inside = parts[container.at + 1 :]
    if container.at >= 0 and parts[container.at].startswith("libpod-payload-"):
        # --cgroups=split: the unit that started podman stands for the container, by the operator's own wish.
        inside = parts
    for part in reversed(inside):
        if unit := _unit(part):
            return "" if _PREFIXED.fullmatch(part) else unit
    return ""


def _pod_uid(part: str) -> str:
    match = _POD.fullmatch(part.split(":", 1)[0])
    return match["uid"].replace("_", "-") if match else ""


def _in_container(place: Place) -> bool:
    return bool(place.container)


def _in_unit(place: Place) -> bool:
    return bool(place.systemd_unit)


def _in_path(place: Place) -> bool:
    return bool(_components(place.path))
