"""Places read off cgroup files, with paths as each engine makes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.labels.cgroup import Place, parse_cgroup, parse_path, unescape

A = "3f8a1b" + "0" * 52 + "c0ffee"
B = "b" * 64
POD = "1" * 64
UID = "0f3c7f2e-6d1b-4c55-9d2f-8a7e1b2c3d4e"
UID_ = UID.replace("-", "_")
STATIC_UID = "5c5e3d7e9b0a4f6f8d7c6b5a49382716"
KUBE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice"
USER = "/user.slice/user-1000.slice/user@1000.service"

CONTAINERS = {
    "docker, cgroupfs": (f"/docker/{A}", A, "docker"),
    "docker, systemd": (f"/system.slice/docker-{A}.scope", A, "docker"),
    "docker, rootless": (f"{USER}/user.slice/docker-{A}.scope", A, "docker"),
    "docker, its own cgroup parent": (f"/actions_job/{A}", A, ""),
    "docker in docker": (f"/docker/{A}/docker/{B}", B, "docker"),
    "docker in docker, systemd outside": (f"/system.slice/docker-{A}.scope/docker/{B}", B, "docker"),
    "docker in docker, the inner engine itself": (f"/docker/{A}/init", A, "docker"),
    "systemd in docker": (f"/system.slice/docker-{A}.scope/system.slice/nginx.service", A, "docker"),
    "docker, seen from a sibling": (f"/../{A}", A, ""),
    "docker, systemd, seen from a sibling": (f"/../docker-{A}.scope", A, "docker"),
    "docker, from deeper": (f"/../../../docker/{A}", A, "docker"),
    "docker under the kubelet": (f"/kubepods/besteffort/pod{UID}/{A}", A, ""),
    "containerd, systemd": (f"{KUBE}/cri-containerd-{A}.scope", A, "containerd"),
    "containerd, guaranteed": (
        f"/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{A}.scope",
        A,
        "containerd",
    ),
    "containerd, drivers at odds": (
        f"/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{A}",
        A,
        "containerd",
    ),
    "kind": (
        f"/docker/{B}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice"
        f"/kubelet-kubepods-burstable-pod{UID_}.slice/cri-containerd-{A}.scope",
        A,
        "containerd",
    ),
    "kind, cgroupfs": (f"/docker/{B}/kubelet/kubepods/burstable/pod{UID}/{A}", A, ""),
    "nerdctl": (f"/system.slice/nerdctl-{A}.scope", A, "containerd"),
    "nerdctl, cgroupfs": (f"/default/{A}", A, ""),
    "cri-o, systemd": (f"{KUBE}/crio-{A}.scope", A, "cri-o"),
    "cri-o, with a cgroup of its own inside": (f"{KUBE}/crio-{A}.scope/container", A, "cri-o"),
    "cri-o, cgroupfs": (f"/kubepods/burstable/pod{UID}/crio-{A}", A, "cri-o"),
    "podman": (f"/machine.slice/libpod-{A}.scope", A, "podman"),
    "podman, v2": (f"/machine.slice/libpod-{A}.scope/container", A, "podman"),
    "podman, cgroupfs": (f"/libpod_parent/libpod-{A}", A, "podman"),
    "podman, a pod": (f"/machine.slice/machine-libpod_pod_{POD}.slice/libpod-{A}.scope/container", A, "podman"),
    "podman, a pod, cgroupfs": (f"/libpod_parent/{POD}/libpod-{A}", A, "podman"),
    "podman, rootless": (f"{USER}/user.slice/libpod-{A}.scope/container", A, "podman"),
    "podman, rootless, a pod": (
        f"{USER}/user.slice/user-libpod_pod_{POD}.slice/libpod-{A}.scope/container",
        A,
        "podman",
    ),
    "podman, a quadlet": (f"/system.slice/web.service/libpod-payload-{A}", A, "podman"),
    "podman in docker": (f"/docker/{A}/libpod_parent/libpod-{B}", B, "podman"),
    "amazon ecs": (f"/ecs/0123456789abcdef0123456789abcdef/{A}", A, ""),
    "lxc": ("/lxc.payload.web-1/system.slice/nginx.service", "web-1", "lxc"),
    "lxc, old": ("/lxc/101/ns/init.scope", "101", "lxc"),
    "docker in lxc": (f"/lxc.payload.web/docker/{A}", A, "docker"),
}

NO_CONTAINERS = {
    "root": "/",
    "private namespace": "/../../..",
    "a unit": "/system.slice/ssh.service",
    "podman's monitor": f"/machine.slice/libpod-conmon-{A}.scope",
    "cri-o's monitor": f"/system.slice/crio-conmon-{A}.scope",
    "rootless monitor, cgroupfs": f"/libpod_parent/conmon-{A}",
    "podman's pod itself": f"/machine.slice/machine-libpod_pod_{POD}.slice",
    "podman's pod itself, cgroupfs": f"/libpod_parent/{POD}",
    "too short": f"/docker/{A[:-1]}",
    "too long": f"/docker/{A}0",
    "upper case": f"/docker/{A.upper()}",
    "not at the end": f"/docker-{A}-x.scope",
    "the pod's own cgroup": KUBE,
}


@pytest.mark.parametrize(("path", "container", "runtime"), CONTAINERS.values(), ids=CONTAINERS.keys())
@pytest.mark.parametrize("line", ["0::{}\n", "12:memory:{}\n", "1:name=systemd:{}\n", "4:cpu,cpuacct:{} (deleted)\n"])
def test_container_is_found(path: str, container: str, runtime: str, line: str) -> None:
    """The innermost container and its runtime, in cgroup v1 and v2 alike."""
    place = parse_cgroup(line.format(path))
    assert (place.container, place.runtime, place.path) == (container, runtime, path)


@pytest.mark.parametrize("path", NO_CONTAINERS.values(), ids=NO_CONTAINERS.keys())
def test_no_container_is_invented(path: str) -> None:
    """What merely looks like a container's cgroup is none."""
    place = parse_cgroup(f"0::{path}\n")
    assert (place.container, place.runtime) == ("", "")


@pytest.mark.parametrize(
    ("path", "uid"),
    [
        (f"{KUBE}/cri-containerd-{A}.scope", UID),
        (f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{A}.scope/container", UID),
        (f"/kubepods/besteffort/pod{UID}/{A}", UID),
        (f"/docker/{B}/kubelet/kubepods/burstable/pod{UID}/{A}", UID),
        (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC_UID}.slice", STATIC_UID),
        (f"/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{A}", UID),
        (f"/podman/pod{UID}/{A}", ""),
        (f"/system.slice/pod{UID}.slice", ""),
    ],
)
def test_pod_uid_is_found(path: str, uid: str) -> None:
    """The pod's UID as the API server writes it, of either driver and of static pods; only below kubepods."""
    assert parse_path(path).pod_uid == uid


@pytest.mark.parametrize(
    ("path", "unit", "systemd_unit", "slice_"),
    [
        ("/system.slice/ssh.service", "ssh.service", "ssh.service", "system.slice"),
        (f"{USER}/app.slice/foo.service", "foo.service", "foo.service", "app.slice"),
        (f"{USER}/init.scope", "init.scope", "init.scope", "user-1000.slice"),
        ("/user.slice/user-0.slice/session-3.scope", "session-3.scope", "session-3.scope", "user-0.slice"),
        (
            "/system.slice/system-postgresql.slice/postgresql@15-main.service",
            "postgresql@15-main.service",
            "postgresql@15-main.service",
            "system-postgresql.slice",
        ),
        ("/system.slice/my\\x2dapp.service", "my-app.service", "my-app.service", "system.slice"),
        (
            f"{USER}/app.slice/app-dbus\\x2d:1.2\\x2dorg.a11y.slice/dbus-:1.2-org.a11y.Registry@0.service",
            "dbus-:1.2-org.a11y.Registry@0.service",
            "dbus-:1.2-org.a11y.Registry@0.service",
            "app-dbus-:1.2-org.a11y.slice",
        ),
        ("/system.slice/foo.service/worker/7", "foo.service", "foo.service", "system.slice"),
        ("/system.slice/docker.socket", "docker.socket", "docker.socket", "system.slice"),
        ("/system.slice/_cpu.service", "cpu.service", "cpu.service", "system.slice"),
        (f"/system.slice/docker-{A}.scope", "", f"docker-{A}.scope", "system.slice"),
        (f"/docker/{A}", "", "", ""),
        (
            f"/system.slice/docker-{A}.scope/system.slice/nginx.service",
            "nginx.service",
            "nginx.service",
            "system.slice",
        ),
        (f"{USER}/user.slice/libpod-{A}.scope/container", "", f"libpod-{A}.scope", "user.slice"),
        (f"/system.slice/web.service/libpod-payload-{A}", "web.service", "web.service", "system.slice"),
        (f"/machine.slice/libpod-conmon-{A}.scope", "", f"libpod-conmon-{A}.scope", "machine.slice"),
        (
            f"/system.slice/containerd.service/kubepods-pod{UID_}.slice:cri-containerd:{A}",
            "",
            "containerd.service",
            "system.slice",
        ),
        (f"{KUBE}/crio-{A}.scope", "", f"crio-{A}.scope", f"kubepods-burstable-pod{UID_}.slice"),
        ("/", "", "", ""),
        ("/../../system.slice/cron.service", "cron.service", "cron.service", "system.slice"),
    ],
)
def test_unit_is_found(path: str, unit: str, systemd_unit: str, slice_: str) -> None:
    """The innermost unit that means something to people; an engine's scope is kept apart from it."""
    place = parse_path(path)
    assert (place.unit, place.systemd_unit, place.slice) == (unit, systemd_unit, slice_)


HYBRID_DOCKER = f"""\
13:pids:/docker/{A}
12:hugetlb:/docker/{A}
1:name=systemd:/docker/{A}
0::/system.slice/containerd.service
"""
HYBRID_UNIT = """\
11:memory:/system.slice/nginx.service
10:cpuset:/
1:name=systemd:/system.slice/nginx.service
0::/system.slice/nginx.service
"""
V1_ONE_CONTROLLER = f"11:freezer:/\n10:cpuset:/\n3:memory:/docker/{A}\n1:name=systemd:/\n0::/\n"


@pytest.mark.parametrize(
    ("text", "container", "unit"),
    [
        (HYBRID_DOCKER, A, ""),
        (HYBRID_UNIT, "", "nginx.service"),
        (V1_ONE_CONTROLLER, A, ""),
        (f"5:cpu:/\n1:name=systemd:/system.slice/a.service\n0::/../docker-{A}.scope\n", A, ""),
        ("2:cpu:/ours/batch\n1:name=systemd:/system.slice/a.service\n0::/\n", "", "a.service"),
        ("0::/\n", "", ""),
        ("0::/../../..\n", "", ""),
        ("", "", ""),
        ("nonsense\n1:2\n:::\n0::relative\n", "", ""),
    ],
)
def test_one_line_is_chosen(text: str, container: str, unit: str) -> None:
    """On hybrid hosts the line that knows the container wins over the engine's own service on v2."""
    place = parse_cgroup(text)
    assert (place.container, place.unit) == (container, unit)


def test_path_is_that_of_a_line_that_has_one() -> None:
    """Where neither a container nor a unit is named, the first path that is not the root tells most."""
    assert parse_cgroup("4:memory:/batch/7\n1:name=systemd:/\n0::/\n").path == "/batch/7"
    assert parse_cgroup("0::/\n") == Place(path="/")


@pytest.mark.parametrize(
    ("escaped", "plain"),
    [
        ("a\\x2db.service", "a-b.service"),
        ("dev-disk-by\\x2dlabel-caf\\xc3\\xa9.swap", "dev-disk-by-label-café.swap"),
        ("bad\\xff.service", "bad\ufffd.service"),
        ("short\\x2.service", "short\\x2.service"),
        ("_plain", "_plain"),
    ],
)
def test_unescape_gives_names_as_people_write_them(escaped: str, plain: str) -> None:
    """Escapes of one or more bytes are undone; what is no escape stays."""
    assert unescape(escaped) == plain


@given(st.text(alphabet="0:/\n.abdockerlxcpod-_\\x2dservice" + A[:6], max_size=300))
def test_any_text_gives_a_place(text: str) -> None:
    """Whatever a cgroup is called, parsing ends and gives text."""
    assert isinstance(parse_cgroup(text), Place)
