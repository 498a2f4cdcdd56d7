"""The `__meta_*` labels that rules see of a process, and drop out after them. Pure; listed in docs/configuration.md."""

import re

from agent.facts import ProcessFacts
from agent.labels.cgroup import Place
from agent.labels.engine import Container
from agent.labels.relabel import clean, is_name

_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_]")


def meta_labels(facts: ProcessFacts, place: Place, container: Container | None) -> dict[str, str]:
    """Everything known about a process, as labels; what is unknown is absent, and so is what has too long a name."""
    found = container or Container()
    labels = {f"__meta_container_label_{sanitize(name)}": value for name, value in found.labels}
    labels |= {
        "__meta_process_pid": str(facts.tgid),
        "__meta_process_exe": facts.exe,
        "__meta_process_comm": facts.comm,
        "__meta_process_cmdline": " ".join(facts.cmdline),
        "__meta_process_uid": str(facts.uid) if facts.uid >= 0 else "",
        "__meta_process_pid_namespace": str(facts.pid_namespace or ""),
        "__meta_process_build_id": str(facts.build_id or ""),
        "__meta_cgroup_path": place.path,
        "__meta_container_id": place.container,
        "__meta_container_runtime": place.runtime,
        "__meta_container_name": found.name,
        "__meta_container_image": found.image,
        "__meta_systemd_unit": place.systemd_unit,
        "__meta_systemd_slice": place.slice,
        "__meta_kubernetes_pod_uid": place.pod_uid,
        "__meta_kubernetes_pod_name": found.pod,
        "__meta_kubernetes_namespace": found.namespace,
        "__meta_kubernetes_container_name": found.pod_container,
    }
    return {name: clean(value) for name, value in labels.items() if value and is_name(name)}


def sanitize(name: str) -> str:
    """A foreign label's name as part of one of ours, the way Prometheus' discoveries do it: `_` for what may not be."""
    return _NOT_IN_A_NAME.sub("_", name)
