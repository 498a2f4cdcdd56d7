"""The application: what it answers, to whom, and how it refuses."""

import gzip
import json
import sys
from pathlib import Path

import pytest

from aggregator.api.catalog import merged_builds
from aggregator.api.routes import ENDPOINTS
from aggregator.api.symbols import missing_row
from aggregator.formats import DIFF_FORMS, FORMS, Format
from aggregator.storage.types import Build
from aggregator.symbols.service import Missing
from aggregator.symbols.table import Rank
from fleetflame.buildid import BuildId
from fleetflame.model import Mapping, MappingKind
from tests.aggregator.api.conftest import RANGE, SAMPLES, Service
from tests.aggregator.storage.fleet import DAY


def total(folded: str) -> int:
    """Samples in folded text."""
    return sum(int(line.rpartition(" ")[2]) for line in folded.splitlines())


async def test_a_profile_holds_every_sample_of_its_range(service: Service) -> None:
    """Counts are conserved from the store to the answer, and said in a header."""
    answer = await service.client.get("/api/v1/profile", params={**RANGE, "format": "folded"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert total(answer.text) == SAMPLES
    assert answer.headers["fleetflame-samples"].startswith(f"total={SAMPLES}, ")
    assert "content-disposition" not in answer.headers


async def test_relative_times_are_of_the_servers_clock(service: Service) -> None:
    """The fixture's clock stands ten minutes after the first sample."""
    all_of_it = await service.client.get("/api/v1/profile", params={"format": "folded", "from": "-11m"})
    nothing = await service.client.get("/api/v1/profile", params={"format": "folded", "from": "-1m"})
    assert total(all_of_it.text) == SAMPLES
    assert nothing.text == ""


async def test_by_takes_several_labels_in_either_form(service: Service) -> None:
    """Repeated or separated by commas: the first frames are their values, then comm."""
    url = "/api/v1/profile?format=folded&from={from}&until={until}".format(**RANGE)
    repeated = await service.client.get(f"{url}&by=node&by=service")
    separated = await service.client.get(f"{url}&by=node,service")
    assert repeated.text == separated.text
    assert {line.split(";")[0] for line in repeated.text.splitlines()} == {f"web-{n}.example" for n in range(3)}
    assert {line.split(";")[2] for line in repeated.text.splitlines()} <= {"nginx", "php", "cron"}


async def test_without_the_kernel_every_sample_stays(service: Service) -> None:
    """Its frames go, and their samples count for what called it."""
    whole = await service.client.get("/api/v1/profile", params={**RANGE, "format": "folded"})
    user = await service.client.get("/api/v1/profile", params={**RANGE, "format": "folded", "kernel": "false"})
    assert "_[k]" in whole.text
    assert "_[k]" not in user.text
    assert total(user.text) == SAMPLES


async def test_a_download_has_a_name(service: Service) -> None:
    """Browsers save it then."""
    params = {**RANGE, "format": "folded", "download": "true"}
    answer = await service.client.get("/api/v1/profile", params=params)
    assert answer.headers["content-disposition"] == 'attachment; filename="cpu.folded.txt"'


@pytest.mark.parametrize(
    ("path", "status", "code", "message", "hint"),
    [
        ("/api/v1/profile?form=folded", 400, "bad_request", "unknown parameter `form`", "did you mean `format`?"),
        ("/api/v1/profile?format=gif", 400, "bad_request", "parameter `format` is `gif`", "folded"),
        ("/api/v1/profile?from=yesterday", 400, "bad_request", "not a time", "RFC 3339"),
        ("/api/v1/profile?from=now", 400, "bad_request", "empty", "starts before"),
        ("/api/v1/profile?format=folded&from=0", 400, "bad_request", "is longer than 92d", "--query-range"),
        ("/api/v1/profile?query=cpu{", 400, "bad_request", "\n      ^", "looks like"),
        ("/api/v1/profile?query=a&query=b", 400, "bad_request", "given 2 times", "once"),
        ("/api/v1/profile?kernel=maybe", 400, "bad_request", "`maybe`", "true or false"),
        ("/api/v1/profile?by=no-label", 400, "bad_request", "not a label name: `no-label`", "labels"),
        ("/api/v1/labels?limit=0", 400, "bad_request", "`limit`", "from 1"),
        ("/api/v1/labels?limit=x", 400, "bad_request", "`limit`", "from 1"),
        ("/api/v1/nothing", 404, "not_found", "`GET /api/v1/nothing`", "openapi"),
        ("/static/none.js", 404, "not_found", "none.js", ""),
    ],
)
async def test_a_refusal_says_what_is_wrong_and_what_to_do(
    service: Service, path: str, status: int, code: str, message: str, hint: str
) -> None:
    """Errors are JSON of one shape, with a code for programs."""
    answer = await service.client.get(path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert message in error["message"]
    assert hint in error["hint"]
    assert error.keys() == {"code", "message", "hint"}


async def test_other_methods_are_refused_with_those_that_work(service: Service) -> None:
    """405 names them."""
    answer = await service.client.delete("/api/v1/profile")
    assert answer.status_code == 405
    assert answer.json()["error"]["code"] == "wrong_method"
    assert "GET" in answer.headers["allow"]


async def test_head_answers_like_get_without_a_body(service: Service) -> None:
    """For those who only want to know the size or the type."""
    answer = await service.client.head("/api/v1/profile", params={**RANGE, "format": "folded"})
    assert answer.status_code == 200
    assert answer.content == b""
    assert int(answer.headers["content-length"]) > 0


async def test_long_answers_are_compressed_for_those_who_take_it(service: Service) -> None:
    """And only for those."""
    params = {**RANGE, "format": "folded", "by": "node,service"}
    plain = await service.client.get("/api/v1/profile", params=params, headers={"accept-encoding": "identity"})
    request = service.client.build_request("GET", "/api/v1/profile", params=params, headers={"accept-encoding": "gzip"})
    packed = await service.client.send(request, stream=True)
    raw = b"".join([chunk async for chunk in packed.aiter_raw()])
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(raw) == plain.content
    assert len(raw) < len(plain.content)
    assert packed.headers["vary"] == "accept-encoding"


@pytest.mark.parametrize("host", ["localhost:4040", "127.0.0.1:4040", "[::1]:4040", "LOCALHOST"])
async def test_loopback_names_are_served_on_loopback(service: Service, host: str) -> None:
    """With any port, since a tunnel may have another."""
    assert (await service.client.get("/healthz", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:4040", "", "[::2]"])
async def test_other_host_names_are_refused_on_loopback(service: Service, host: str) -> None:
    """A name that resolves to 127.0.0.1 must not let a page of its own read profiles."""
    answer = await service.client.get("/api/v1/labels", headers={"host": host})
    assert answer.status_code == 421
    assert answer.json()["error"]["code"] == "wrong_host"


async def test_pages_of_others_may_not_post(service: Service) -> None:
    """A browser would send it, even though the page could not read the answer."""
    answer = await service.client.post("/api/v1/profile", headers={"origin": "https://evil.example"})
    assert answer.status_code == 403


async def test_every_answer_carries_security_headers(service: Service) -> None:
    """Refusals too."""
    for path in ("/", "/api/v1/labels", "/nothing"):
        headers = (await service.client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"]


async def test_the_page_is_served_and_not_sent_twice(service: Service) -> None:
    """By its content's tag."""
    for path, kind in (("/", "text/html"), ("/static/app.js", "text/javascript"), ("/static/style.css", "text/css")):
        first = await service.client.get(path)
        assert first.headers["content-type"].startswith(kind)
        again = await service.client.get(path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_readiness_says_what_is_in_the_way(service: Service) -> None:
    """503 for the orchestrator, the reason for the operator."""
    assert (await service.client.get("/readyz")).json() == {"ready": True, "troubles": {}}
    service.troubles["bus"] = "not connected"
    answer = await service.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["troubles"] == {"bus": "not connected"}
    assert (await service.client.get("/healthz")).text == "ok\n"


async def test_metrics_are_in_the_exposition_format(service: Service) -> None:
    """All of this process."""
    answer = await service.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "fleetflame_aggregator_samples_stored_total" in answer.text


async def test_openapi_has_every_endpoint_with_its_parameters(service: Service) -> None:
    """It is made from the table that routes."""
    document = (await service.client.get("/api/v1/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert document["info"]["version"] == "1.2.3"
    identifiers = []
    for endpoint in ENDPOINTS:
        operation = document["paths"][endpoint.path][endpoint.method.lower()]
        identifiers.append(operation["operationId"])
        told = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "query"}
        assert told == {param.name for param in endpoint.params}
    assert len(set(identifiers)) == len(identifiers)
    json.dumps(document)


@pytest.mark.parametrize(
    ("format_name", "start"),
    [
        ("html", b"<!DOCTYPE html>"),
        ("svg", b"<svg"),
        ("json", b"{"),
        ("speedscope", b"{"),
        ("pprof", b"\x1f\x8b"),
        ("table", b""),
        ("folded", b""),
    ],
)
async def test_every_format_is_served_under_its_type(service: Service, format_name: str, start: bytes) -> None:
    """What has scripts of its own comes with a sandbox."""
    answer = await service.client.get("/api/v1/profile", params={**RANGE, "format": format_name})
    form = FORMS[Format(format_name)]
    assert answer.status_code == 200
    assert answer.headers["content-type"] == form.content_type
    assert answer.content.startswith(start)
    assert len(answer.content) > 100
    policy = answer.headers["content-security-policy"]
    assert ("sandbox" in policy) is form.picture
    assert "allow-same-origin" not in policy


async def test_the_top_functions_add_up(service: Service) -> None:
    """Their own samples are all samples, if all functions are listed."""
    top = (await service.client.get("/api/v1/top", params={**RANGE, "limit": "1000"})).json()
    assert top["samples"] == SAMPLES == sum(row["self"] for row in top["rows"])
    assert top["functions"] == len(top["rows"])
    assert top["whole"] + top["truncated"] + top["unsymbolized"] == SAMPLES
    assert [row["self"] for row in top["rows"]] == sorted((row["self"] for row in top["rows"]), reverse=True)


DIFFERENT = (
    {"baseline": 'service="search"', "query": 'service="checkout"'},
    {"baseline_from": str(DAY), "baseline_until": str(DAY + 60), "from": str(DAY + 60)},
    {"baseline_build": "abcd", "build": "a" * 40},
)


@pytest.mark.parametrize("sides", DIFFERENT, ids=["selectors", "times", "builds"])
@pytest.mark.parametrize("format_name", list(DIFF_FORMS))
async def test_two_sides_are_compared_in_every_format(
    service: Service, sides: dict[str, str], format_name: str
) -> None:
    """By selector, by time, by build."""
    answer = await service.client.get("/api/v1/diff", params={**RANGE, **sides, "format": format_name})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == DIFF_FORMS[Format(format_name)].content_type


async def test_a_difference_holds_the_samples_of_both_sides(service: Service) -> None:
    """Stack, samples before, samples after."""
    params = {**RANGE, **DIFFERENT[0], "format": "folded"}
    answer = await service.client.get("/api/v1/diff", params=params)
    rows = [line.rsplit(" ", 2)[1:] for line in answer.text.splitlines()]
    before, after = (sum(int(row[side]) for row in rows) for side in (0, 1))
    assert before + after == SAMPLES
    assert answer.headers["fleetflame-samples"].startswith(f"total={SAMPLES},")
    assert answer.headers["fleetflame-samples"].endswith(f", before={before}, after={after}")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "both sides of the difference are the same"),
        ({"build": "xyz"}, "not a build ID: `xyz`"),
        ({"build": "ab"}, "not a build ID: `ab`"),
        ({"baseline": "cpu{"}, "malformed selector"),
        ({"format": "pprof"}, "parameter `format` is `pprof`"),
    ],
)
async def test_what_cannot_be_compared_is_refused(service: Service, params: dict[str, str], message: str) -> None:
    """With the reason."""
    answer = await service.client.get("/api/v1/diff", params={**RANGE, **params})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


async def test_labels_and_their_values_are_listed(service: Service) -> None:
    """Of the series in the range, that match."""
    names = (await service.client.get("/api/v1/labels", params=RANGE)).json()["labels"]
    assert names == ["comm", "node", "service"]
    nodes = (await service.client.get("/api/v1/labels/node", params=RANGE)).json()
    assert nodes == {"label": "node", "values": ["web-0.example", "web-1.example", "web-2.example"]}
    one = (await service.client.get("/api/v1/labels/node", params={**RANGE, "query": 'node=~"web-1.*"'})).json()
    assert one["values"] == ["web-1.example"]
    none = (await service.client.get("/api/v1/labels/absent", params=RANGE)).json()
    assert none["values"] == []


async def test_series_are_listed_up_to_the_limit(service: Service) -> None:
    """With how many there are."""
    answer = (await service.client.get("/api/v1/series", params={**RANGE, "limit": "2"})).json()
    assert len(answer["series"]) == 2
    assert answer["total"] > 2
    assert answer["series"][0].keys() == {"comm", "node", "service"}


async def test_builds_are_listed_with_their_ids(service: Service) -> None:
    """Files and kernels."""
    answer = (await service.client.get("/api/v1/builds")).json()
    assert {(row["kind"], row["build_id"][:2], row["path"]) for row in answer["builds"]} == {
        ("file", "01", "/usr/lib/libc.so.6"),
        ("kernel", "02", "[kernel]"),
    }


def test_a_build_without_a_path_is_listed_once() -> None:
    """A process that was gone too soon leaves a build and no path; others of the build have one."""
    known, other = BuildId(b"\1" * 20), BuildId(b"\2" * 20)
    app, bare, alone = (
        Mapping(MappingKind.FILE, build, path) for build, path in ((known, "/bin/app"), (known, ""), (other, ""))
    )
    found = [Build(mapping=bare, last_seen=9), Build(mapping=alone, last_seen=5), Build(mapping=app, last_seen=7)]
    assert merged_builds(found) == [Build(mapping=alone, last_seen=5), Build(mapping=app, last_seen=9)]


@pytest.mark.parametrize(("rank", "reason"), [(None, "not_searched"), (Rank.DYNSYM, "exports_only")])
def test_a_stripped_file_is_not_called_unsearched(rank: Rank | None, reason: str) -> None:
    """It was found, and has no more to say."""
    lacking = Missing(
        mapping=Mapping(MappingKind.FILE, BuildId(b"\1" * 20), "/bin/app"), rank=rank, fault=None, detail=""
    )
    assert missing_row(lacking)["reason"] == reason


async def test_nodes_have_their_books(service: Service) -> None:
    """What each sent, and when it was last heard of."""
    nodes = (await service.client.get("/api/v1/nodes")).json()["nodes"]
    assert [node["node"] for node in nodes] == ["web-0.example", "web-1.example", "web-2.example"]
    assert sum(node["stored"] for node in nodes) == SAMPLES
    assert all(node["last_seen"].startswith("2026-") and node["frequency"] == 19 for node in nodes)


async def test_the_status_adds_up(service: Service) -> None:
    """taken = stored + lost + rejected + missing + in flight."""
    status = (await service.client.get("/api/v1/status")).json()
    parts = ("stored", "lost", "rejected", "missing", "in_flight")
    for account in (*status["nodes"], status["total"]):
        assert account["taken"] == sum(account[part] for part in parts)
        assert account["balances"]
    assert status["balances"]
    assert status["total"]["stored"] == SAMPLES


async def test_builds_without_symbols_are_missing(service: Service) -> None:
    """With what was found when they were looked for."""
    assert (await service.client.get("/api/v1/symbols")).json() == {"symbols": []}
    missing = (await service.client.get("/api/v1/symbols?missing=true")).json()["missing"]
    assert {(row["path"], row["quality"], row["reason"]) for row in missing} == {
        ("/usr/lib/libc.so.6", "none", "not_searched"),
        ("[kernel]", "none", "not_searched"),
    }


async def test_an_upload_names_its_build(service: Service) -> None:
    """This machine's own Python, given as if it were yet to run."""
    body = Path(sys.executable).resolve().read_bytes()
    answer = await service.client.post("/api/v1/symbols?force=true&name=python", content=body)
    told = answer.json()
    assert answer.status_code == 200, told
    assert (told["verdict"], told["source"], told["seen"]) == ("taken", "upload", False)
    assert told["functions"] > 100
    listed = (await service.client.get("/api/v1/symbols")).json()["symbols"]
    assert [row["build_id"] for row in listed] == [told["build_id"]]


@pytest.mark.parametrize(
    ("query", "body", "status", "code", "message"),
    [
        ("", b"", 400, "empty", "no body"),
        ("", b"#!/bin/sh\n", 422, "not_elf", "ELF"),
        ("?build_id=xyz", b"\x7fELF", 400, "bad_request", "build ID"),
        ("?nam=x", b"\x7fELF", 400, "bad_request", "unknown parameter `nam`"),
    ],
)
async def test_what_is_no_symbol_file_is_refused(
    service: Service, query: str, body: bytes, status: int, code: str, message: str
) -> None:
    """With the reason that it is counted under."""
    answer = await service.client.post(f"/api/v1/symbols{query}", content=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert message in error["message"]


async def test_uploads_are_bounded_whatever_they_say(service: Service) -> None:
    """By what arrives, and by what is announced."""
    limit = service.context.config.upload_bytes
    announced = await service.client.post("/api/v1/symbols", content=b"x", headers={"content-length": str(limit + 1)})
    assert announced.status_code == 413
    assert announced.json()["error"]["code"] == "too_large"
