"""How processes are labelled: the operator's choices."""

from dataclasses import dataclass

from agent.labels.relabel import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig:
    """Choices about labels.

    `container_sockets` are Unix sockets of container engines, asked in this order; none: engines are not asked.
    `kubernetes_logs` is the folder of the kubelet's log links; "": not looked at. Sockets and a folder that do not
    exist are normal.
    """

    relabel_configs: tuple[Rule, ...] = ()
    pid_label: bool = False
    container_sockets: tuple[str, ...] = ("/var/run/docker.sock", "/run/podman/podman.sock")
    kubernetes_logs: str = "/var/log/containers"
