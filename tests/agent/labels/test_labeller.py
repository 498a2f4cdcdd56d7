"""Labels of whole processes: derived ones, rules, names that come later, and bounds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent import labels as labels_package
from agent.facts import ProcessFacts
from agent.labels import LabelConfig, Labeller
from agent.labels.cgroup import parse_cgroup
from agent.labels.engine import Container
from agent.labels.meta import meta_labels
from agent.labels.relabel import Action, Rule
from agent.labels.service import derive_service
from fleetflame.buildid import BuildId
from tests.agent.labels.engines import described, running

ID = "a" * 64
UID = "0f3c7f2e-6d1b-4c55-9d2f-8a7e1b2c3d4e"
NGINX = ProcessFacts(
    tgid=4711,
    comm="nginx",
    exe="/usr/sbin/nginx",
    cgroup="0::/system.slice/nginx.service\n",
    build_id=BuildId(b"\xab\xcd"),
    uid=33,
    cmdline=("nginx: worker process",),
    pid_namespace=4026531836,
)
IN_DOCKER = replace(NGINX, cgroup=f"0::/system.slice/docker-{ID}.scope\n")
ALONE = LabelConfig(container_sockets=(), kubernetes_logs="")


def labels_of(facts: ProcessFacts, *rules: Rule, thread: str = "", **choices: Any) -> dict[str, str] | None:
    found = Labeller(replace(ALONE, relabel_configs=rules, **choices)).labels(facts, thread=thread)
    return None if found is None else dict(found)


def test_derived_labels_are_always_there() -> None:
    """Sorted by name, nothing empty, no node, neither pid nor thread."""
    assert Labeller(ALONE).labels(NGINX) == (
        ("build", "abcd"),
        ("comm", "nginx"),
        ("exe", "/usr/sbin/nginx"),
        ("service", "nginx"),
        ("unit", "nginx.service"),
    )


def test_pid_and_thread_on_demand() -> None:
    """The PID by configuration, the thread by whoever counts threads apart."""
    found = labels_of(NGINX, pid_label=True, thread="worker")
    assert found is not None
    assert (found["pid"], found["thread"]) == ("4711", "worker")


def test_container_is_its_id_without_a_name() -> None:
    """Until an engine tells a name, and where there is none to ask."""
    found = labels_of(IN_DOCKER)
    assert found is not None
    assert found["container"] == ID
    assert "unit" not in found


def test_facts_that_nobody_knows_give_few_labels() -> None:
    """A process that was gone before it was looked at is labelled by what the kernel said: its comm."""
    assert labels_of(ProcessFacts(tgid=1, comm="short")) == {"comm": "short", "service": "short"}


COMPOSE = Container(labels=(("com.docker.compose.service", "web"),))
SWARM = Container(labels=(("com.docker.swarm.service.name", "shop_web"),))
NAMED_APP = Container(labels=(("app.kubernetes.io/name", "shop"),), pod_container="nginx")


@pytest.mark.parametrize(
    ("changes", "container", "service"),
    [
        ({}, COMPOSE, "web"),
        ({}, SWARM, "shop_web"),
        ({}, NAMED_APP, "shop"),
        ({}, Container(pod_container="sidecar", pod="p", namespace="n"), "sidecar"),
        ({"cgroup": f"0::/docker/{ID}\n"}, Container(name="wizardly_bohr", image="nginx"), "nginx"),
        ({"cgroup": "0::/system.slice/my\\x2dshop.service\n"}, None, "my-shop"),
        ({"cgroup": f"0::/system.slice/shop.service/libpod-payload-{ID}\n"}, None, "shop"),
        ({"cgroup": f"0::/system.slice/docker-{ID}.scope\n"}, None, "nginx"),
        ({"cgroup": "0::/user.slice/user-0.slice/session-3.scope\n"}, None, "nginx"),
        ({"cgroup": "", "exe": "/usr/bin/python3.11"}, None, "python3.11"),
        ({"cgroup": "", "exe": "/memfd:runc"}, None, "memfd:runc"),
        ({"cgroup": "0::/\n", "exe": "", "cmdline": (), "comm": "kworker/0:1", "kernel": True}, None, "kernel"),
        ({"cgroup": "", "exe": "", "cmdline": (), "comm": "gone"}, None, "gone"),
    ],
)
def test_service_is_derived(changes: dict[str, Any], container: Container | None, service: str) -> None:
    """Orchestrator's name, then systemd service, then executable, then comm; the kernel's threads are the kernel."""
    facts = replace(NGINX, **changes)
    assert derive_service(facts, parse_cgroup(facts.cgroup), container) == service


def test_meta_labels_say_all_that_is_known() -> None:
    """The list that docs/configuration.md has."""
    facts = replace(NGINX, cgroup=f"0::/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/crio-{ID}.scope\n")
    container = Container(
        name="web",
        image="nginx:1",
        labels=(("com.docker.compose.service", "w"),),
        pod="p",
        namespace="n",
        pod_container="c",
    )
    assert meta_labels(facts, parse_cgroup(facts.cgroup), container) == {
        "__meta_process_pid": "4711",
        "__meta_process_exe": "/usr/sbin/nginx",
        "__meta_process_comm": "nginx",
        "__meta_process_cmdline": "nginx: worker process",
        "__meta_process_uid": "33",
        "__meta_process_pid_namespace": "4026531836",
        "__meta_process_build_id": "abcd",
        "__meta_cgroup_path": f"/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/crio-{ID}.scope",
        "__meta_container_id": ID,
        "__meta_container_runtime": "cri-o",
        "__meta_container_name": "web",
        "__meta_container_image": "nginx:1",
        "__meta_container_label_com_docker_compose_service": "w",
        "__meta_systemd_unit": f"crio-{ID}.scope",
        "__meta_systemd_slice": f"kubepods-pod{UID.replace('-', '_')}.slice",
        "__meta_kubernetes_pod_uid": UID,
        "__meta_kubernetes_pod_name": "p",
        "__meta_kubernetes_namespace": "n",
        "__meta_kubernetes_container_name": "c",
    }


def test_foreign_values_are_cleaned() -> None:
    """Arguments and executables are bytes that anybody chooses."""
    found = labels_of(
        replace(NGINX, exe="/tmp/a\nb\udcff", cmdline=("x\x1b[31m", "y" * 5000)),
        Rule(source_labels=("__meta_process_cmdline",), target_label="cmdline"),
    )
    assert found is not None
    assert found["exe"] == "/tmp/a\ufffdb\ufffd"
    assert found["cmdline"] == "x\ufffd[31m " + "y" * (1024 - 7)


def test_rules_see_derived_labels_and_have_the_last_word() -> None:
    """A rule may read `service`, overwrite it, and delete it for good."""
    rename = Rule(source_labels=("service",), regex="ngin(x)", target_label="service", replacement="$1")
    assert (labels_of(NGINX, rename) or {})["service"] == "x"
    assert "service" not in (labels_of(NGINX, Rule(action=Action.LABELDROP, regex="service")) or {})


def test_dropped_process_has_no_labels() -> None:
    """None, which is not the empty set of labels that labelkeep may leave."""
    assert labels_of(NGINX, Rule(action=Action.DROP, source_labels=("unit",), regex="nginx.*")) is None
    assert labels_of(NGINX, Rule(action=Action.LABELKEEP, regex="nothing")) == {}


def test_hidden_and_reserved_labels_stay_here() -> None:
    """Whatever rules make, no `__*` label and no `node` leaves the node."""
    found = labels_of(
        NGINX,
        Rule(target_label="__tmp", replacement="x"),
        Rule(target_label="n${1}ode", replacement="forged"),
        Rule(source_labels=("__tmp",), target_label="kept"),
    )
    assert found is not None
    assert found["kept"] == "x"
    assert not any(name.startswith("__") or name == "node" for name in found)


def test_more_labels_than_a_message_takes_are_cut() -> None:
    """Mapping all of an engine's labels may not cost the derived ones."""
    many = tuple((f"label{number:03}", "v") for number in range(200))
    rules = (Rule(action=Action.LABELMAP, regex="__meta_container_label_(.+)"),)
    labeller = Labeller(replace(ALONE, relabel_configs=rules))
    labeller._names.find = lambda container: Container(labels=many)  # type: ignore[method-assign]
    found = dict(labeller.labels(IN_DOCKER) or ())
    assert len(found) == 64
    assert {"service", "comm", "exe", "container", "build"} <= set(found)


def test_same_facts_are_labelled_once() -> None:
    """A look-up by identity, per thread; equal facts of another process are computed for themselves."""
    labeller = Labeller(ALONE)
    first = labeller.labels(NGINX)
    assert labeller.labels(NGINX) is first
    assert labeller.computed == 1
    labeller.labels(NGINX, thread="a")
    labeller.labels(replace(NGINX, tgid=1))
    assert labeller.computed == 3


def test_identity_of_facts_is_not_confused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Facts that are made and thrown away reuse memory addresses; labels follow the facts all the same."""
    monkeypatch.setattr(labels_package, "MAX_CACHED", 4)
    labeller = Labeller(ALONE)
    for number in range(100):
        found = labeller.labels(ProcessFacts(tgid=number, comm=f"c{number}"))
        assert found == (("comm", f"c{number}"), ("service", f"c{number}"))
    assert len(labeller._cache) == 4


def test_names_appear_when_the_engine_has_answered(tmp_path: Path) -> None:
    """The first look knows the ID only; after a refresh the same facts have the container's and the service's name."""
    answer = described("shop-web-1", "nginx:1", {"com.docker.compose.service": "web"})
    with running(tmp_path / "s", lambda _: answer) as peer:
        labeller = Labeller(LabelConfig(container_sockets=(peer.path,), kubernetes_logs=""))
        before = dict(labeller.labels(IN_DOCKER) or ())
        assert (before["container"], before["service"]) == (ID, "nginx")
        assert labeller.refresh() == 1
        after = dict(labeller.labels(IN_DOCKER) or ())
        assert (after["container"], after["service"]) == ("shop-web-1", "web")
        assert labeller.labels(IN_DOCKER) is labeller.labels(IN_DOCKER)
        assert (labeller.computed, len(peer.requests)) == (2, 1)


def test_noticed_process_has_its_name_at_first_sight(tmp_path: Path) -> None:
    """What is said when a process appears is known when its samples come."""
    with running(tmp_path / "s", lambda _: described("web")) as peer:
        labeller = Labeller(LabelConfig(container_sockets=(peer.path,), kubernetes_logs=""))
        labeller.notice(IN_DOCKER)
        labeller.refresh()
        assert dict(labeller.labels(IN_DOCKER) or ())["container"] == "web"
