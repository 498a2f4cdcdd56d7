"""Names of a pod's containers from the kubelet's log links: no API, no token, the same for every container runtime.

The kubelet keeps a link per container, `<pod>_<namespace>_<container>-<container ID>.log` (legacySymlink in
pkg/kubelet/kuberuntime/legacy.go); log collectors have relied on it for ten years. Only names are read, never a log.
"""

import os
import re
from itertools import islice

from agent.labels.engine import Container

MAX_LINKS = 4096
"""Links looked at. A node runs some hundred pods, and a link remains for a few dead containers of each."""

# Pod and namespace are DNS labels, which have no `_`; the container's name may have `-`, so the ID is taken from the
# end.
_LINK = re.compile(
    r"(?P<pod>[a-z0-9.-]{1,253})_(?P<namespace>[a-z0-9-]{1,63})_(?P<container>[a-z0-9-]{1,63})-(?P<id>[0-9a-f]{64})\.log"
)


def read_names(folder: str) -> dict[str, Container]:
    """Container ID -> names, of all links in `folder`. Raises OSError, FileNotFoundError among them."""
    with os.scandir(folder) as entries:
        matches = [_LINK.fullmatch(entry.name) for entry in islice(entries, MAX_LINKS)]
    return {
        match["id"]: Container(
            name=match["container"], pod=match["pod"], namespace=match["namespace"], pod_container=match["container"]
        )
        for match in matches
        if match
    }
