"""What a process belongs to, when no rule says it. Pure.

In this order: what the container's orchestrator calls it, the systemd unit, the executable. An interpreter is its
executable's name (`python3.11`, `java`): which argument tells services apart is the operator's knowledge, and
`__meta_process_cmdline` is there for their rules.
"""

from pathlib import PurePosixPath

from agent.facts import ProcessFacts
from agent.labels.cgroup import Place
from agent.labels.engine import Container

KERNEL = "kernel"

COMPOSE_SERVICE = "com.docker.compose.service"
ENGINE_LABELS = (
    COMPOSE_SERVICE,  # docker compose and podman-compose
    "com.docker.swarm.service.name",
    "app.kubernetes.io/name",
)
"""Labels of a container that name a service, best first."""


def derive_service(facts: ProcessFacts, place: Place, container: Container | None) -> str:
    """The service that a process belongs to; "" only for a process of which nothing at all is known."""
    if container:
        named = next((value for name in ENGINE_LABELS if (value := container.label(name))), "")
        if named or container.pod_container:
            return named or container.pod_container
    # Services only: a scope is a group of processes that systemd did not start (a login, an application's window), and
    # its name changes with each.
    if place.unit.endswith(".service"):
        return place.unit.removesuffix(".service")
    if facts.exe:
        return PurePosixPath(facts.exe).name
    return KERNEL if facts.kernel else facts.comm
