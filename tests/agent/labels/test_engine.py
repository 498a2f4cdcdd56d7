"""The engine's client against a real socket, with whatever may listen there."""

import contextlib
import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.labels import engine
from agent.labels.engine import Container, EngineError, inspect, is_id, parse_container
from tests.agent.labels.engines import NOT_FOUND, described, http, running, trickling

ID = "a" * 64


def test_inspect_reads_name_image_and_labels(tmp_path: Path) -> None:
    """The three things wanted of a description; the slash before the name goes."""
    labels = {"com.docker.compose.service": "web", "app": "shop"}
    with running(tmp_path / "s", lambda _: described("shop-web-1", "nginx:1.27", labels)) as peer:
        found = inspect(peer.path, ID)
    assert found == Container(name="shop-web-1", image="nginx:1.27", labels=tuple(sorted(labels.items())))
    assert peer.requests[0].startswith(f"GET /containers/{ID}/json HTTP/1.0\r\n")


def test_inspect_reads_what_the_kubelet_tells_an_engine() -> None:
    """Engines under a kubelet have pod, namespace and container name in labels."""
    labels = {
        "io.kubernetes.pod.name": "web-5d8f",
        "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.container.name": "nginx",
    }
    found = parse_container(json.dumps({"Name": "/k8s_nginx_web", "Config": {"Labels": labels}}).encode())
    assert (found.pod, found.namespace, found.pod_container) == ("web-5d8f", "shop", "nginx")


def test_unknown_container_is_no_error(tmp_path: Path) -> None:
    """404 means that the engine has no such container."""
    with running(tmp_path / "s", lambda _: NOT_FOUND) as peer:
        assert inspect(peer.path, ID) is None


def test_missing_socket_is_told_apart(tmp_path: Path) -> None:
    """No engine on this machine is normal, and not the same as one that fails."""
    with pytest.raises(FileNotFoundError):
        inspect(str(tmp_path / "none"), ID)


def test_refused_connection_is_an_engine_error(tmp_path: Path) -> None:
    """A socket file that outlived its engine."""
    with running(tmp_path / "s", lambda _: b""):
        pass
    with pytest.raises(EngineError, match="refused"):
        inspect(str(tmp_path / "s"), ID)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (http(b"{}", status="500 Internal Server Error"), "answered 500"),
        (http(b"{}", status="301 Moved Permanently"), "answered 301"),
        (b"", "no HTTP answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no HTTP answer"),
        (b"HTTP/1.0 " + b"9" * 5000 + b"\r\n\r\n", "no HTTP answer"),
        (http(b"not json"), "no JSON"),
        (http(b"[1, 2]"), "no JSON object"),
        (http(b"[" * 200_000), "no JSON"),
        (http(b'{"Name": "x'), "no JSON"),
        (http(b" " * (engine.MAX_ANSWER + 1)), "larger than"),
    ],
)
def test_bad_answers_are_engine_errors(tmp_path: Path, answer: bytes, message: str) -> None:
    """Whatever comes, it ends in one kind of error that says what was wrong."""
    with running(tmp_path / "s", lambda _: answer) as peer, pytest.raises(EngineError, match=message):
        inspect(peer.path, ID)


def test_silent_engine_times_out(tmp_path: Path) -> None:
    """An engine that takes the connection and says nothing."""
    with running(tmp_path / "s", lambda _: None) as peer, pytest.raises(EngineError, match="timed out"):
        inspect(peer.path, ID, timeout_s=0.05)


def test_trickling_engine_times_out(tmp_path: Path) -> None:
    """A byte now and then does not extend the deadline."""
    path = tmp_path / "s"
    thread = threading.Thread(target=trickling, args=(path, 1.0))
    thread.start()
    try:
        while not path.is_socket():
            pass
        with pytest.raises(EngineError, match=r"timed out|no HTTP answer"):
            _inspect_when_listening(str(path))
    finally:
        thread.join()


def _inspect_when_listening(path: str) -> Container | None:
    while True:
        try:
            return inspect(path, ID, timeout_s=0.1)
        except EngineError as error:  # bound, but not listening yet
            if "refused" not in str(error):
                raise


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"Name": None, "Config": None},
        {"Name": 5, "Config": {"Image": [], "Labels": []}},
        {"Config": {"Labels": {"a": 1, "b": None}}},
    ],
)
def test_parts_of_another_type_count_as_absent(description: object) -> None:
    """A description that is not as documented still gives a container."""
    found = parse_container(json.dumps(description).encode())
    assert found.name == found.image == ""


def test_labels_are_bounded() -> None:
    """An image with thousands of labels gives the same first ones each time; values are fit for labels."""
    labels = {f"l{number:05}": "v\n" * 2000 for number in range(1000)}
    found = parse_container(json.dumps({"Config": {"Labels": labels}}).encode())
    assert [name for name, _ in found.labels] == sorted(labels)[: engine.MAX_LABELS]
    assert {len(value) for _, value in found.labels} == {1024}
    assert "\n" not in found.labels[0][1]


@given(st.binary(max_size=200))
def test_any_body_is_parsed_or_refused(body: bytes) -> None:
    """No body of an answer raises anything but EngineError."""
    with contextlib.suppress(EngineError):
        assert isinstance(parse_container(body), Container)


@pytest.mark.parametrize("text", ["", "web", "a" * 63, "a" * 65, "A" * 64, "a" * 64 + "\n", "x HTTP/1.0\r\n\r\nPOST /"])
def test_only_ids_may_be_asked_for(text: str) -> None:
    """Names that come out of a cgroup's path never reach a request."""
    assert not is_id(text)
