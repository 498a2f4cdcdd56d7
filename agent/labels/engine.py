"""Asks a container engine what a container is called: Docker's API, which podman speaks too, over its Unix socket.

May: one request a container, bounded in time and size. May not: keep anything (`names` does), change anything.
HTTP/1.0 on purpose: the answer is then neither chunked nor kept alive, ends with the connection, and needs no parser
that an engine, or whatever listens there, could keep busy.
"""

import json
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.labels.relabel import clean

TIMEOUT_S = 2.0
"""For one answer, connection included. An engine answers within milliseconds unless it hangs."""
MAX_ANSWER = 1 << 20
"""Bytes of one answer. A container's description has 5 to 20 KiB, by its labels, mounts and environment."""
MAX_LABELS = 128
"""Labels of one container that are taken. An image with Kubernetes or OpenShift on top has some 30."""

_ID = re.compile(r"[0-9a-f]{64}")
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?:\s|$)")


class EngineError(Exception):
    """The engine could not be asked or said what cannot be understood; worth another try later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What an engine or the kubelet calls a container; "" where it does not say. Values are fit for labels."""

    name: str = ""
    image: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    pod: str = ""
    namespace: str = ""
    pod_container: str = ""
    """The container's name within its pod."""

    def label(self, name: str) -> str:
        """The value of the engine's label `name`, "" if there is none."""
        return next((value for key, value in self.labels if key == name), "")


def is_id(text: str) -> bool:
    """Whether an engine may be asked for it. Nothing else may: whoever may name a cgroup would write the request."""
    return _ID.fullmatch(text) is not None


def inspect(socket_path: str, container: str, *, timeout_s: float = TIMEOUT_S) -> Container | None:
    """The container with that ID as the engine behind `socket_path` describes it; None if it knows none.

    Blocks for twice `timeout_s` at most. Raises EngineError, FileNotFoundError if there is no such socket.
    """
    assert is_id(container), "callers ask only for what is_id accepts"
    status, body = _get(socket_path, f"/containers/{container}/json", timeout_s)
    if status == 404:
        return None
    if status != 200:
        raise EngineError(f"answered {status}")
    return parse_container(body)


def parse_container(body: bytes) -> Container:
    """The container that the answer to `GET /containers/ID/json` describes (Docker Engine API, ContainerInspect).

    Raises EngineError if it is no JSON object; a part of another type than documented counts as absent.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise EngineError(f"no JSON: {error}") from error
    if not isinstance(answer, dict):
        raise EngineError("no JSON object")
    config = answer.get("Config")
    config = config if isinstance(config, dict) else {}
    labels = _labels(config.get("Labels"))
    return Container(
        name=_text(answer.get("Name")).lstrip("/"),
        image=_text(config.get("Image")),
        labels=tuple(sorted(labels.items())),
        # What the kubelet tells engines of this API about its containers.
        pod=labels.get("io.kubernetes.pod.name", ""),
        namespace=labels.get("io.kubernetes.pod.namespace", ""),
        pod_container=labels.get("io.kubernetes.container.name", ""),
    )


def _labels(given: Any) -> Mapping[str, str]:
    if not isinstance(given, dict):
        return {}
    # Sorted, so that the same ones are left out each time.
    return {clean(name): _text(value) for name, value in sorted(given.items())[:MAX_LABELS]}


def _text(value: Any) -> str:
    return clean(value) if isinstance(value, str) else ""


def _get(socket_path: str, target: str, timeout_s: float) -> tuple[int, bytes]:
    """Status and body of one request."""
    request = f"GET {target} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n\r\n".encode()
    deadline = time.monotonic() + timeout_s
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(socket_path)
            connection.sendall(request)
            answer = _read_all(connection, deadline)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise EngineError(str(error)) from error
    head, _, body = answer.partition(b"\r\n\r\n")
    status = _STATUS.match(head)
    if not status:
        raise EngineError("no HTTP answer")
    return int(status[1]), body


def _read_all(connection: socket.socket, deadline: float) -> bytes:
    """Everything up to the end of the connection. A peer that sends a byte now and then meets the same deadline."""
    answer = bytearray()
    while chunk := connection.recv(65536):
        answer += chunk
        if len(answer) > MAX_ANSWER:
            raise EngineError(f"answer larger than {MAX_ANSWER} bytes")
        left = deadline - time.monotonic()
        if left <= 0:
            raise EngineError("timed out")
        connection.settimeout(left)
    return bytes(answer)
