"""What `status` says below its table."""

from typing import Any

from cli.status import _notes

NODE: dict[str, Any] = {
    "node": "web-1",
    "lost_by_reason": {},
    "degraded_by_reason": {},
    "rejected_messages_by_reason": {},
    "agent_starts": 1,
    "missing": 0,
}


def notes(total: dict[str, Any], *nodes: dict[str, Any]) -> list[str]:
    """The lines for an answer of the API."""
    return list(_notes({"total": NODE | total, "nodes": [NODE | node for node in nodes]}))


def test_a_fleet_without_accidents_needs_no_note() -> None:
    """One start of each agent, nothing lost."""
    assert notes({}, {}, {}) == []


def test_reasons_come_with_their_counts_and_the_largest_first() -> None:
    """Lost samples, placeholders, rejected messages and from whom."""
    told = notes(
        {
            "lost_by_reason": {"counts_full": 1, "queue_full": 20},
            "degraded_by_reason": {"unmapped": 3},
            "rejected_messages_by_reason": {"foreign_node": 1, "bad_protobuf": 1},
        },
        *({"node": f"web-{n}", "rejected_messages_by_reason": {"foreign_node": 1}} for n in range(5)),
        {"node": "quiet"},
    )
    assert told[0] == "lost: queue_full 20, counts_full 1"
    assert told[1] == "stored with a placeholder: unmapped 3"
    assert told[2].startswith("rejected messages: bad_protobuf 1, foreign_node 1 (from web-0, web-1, web-2 and 2 more;")
    assert len(told) == 3


def test_what_nobody_can_count_is_said_all_the_same() -> None:
    """An agent that was killed took its last window with it."""
    assert notes({}, {"agent_starts": 3}, {}) == [
        "1 agent started 3 times: what one had not sent when it was killed is in no count"
    ]
    assert "2 agents started 5 times" in notes({}, {"agent_starts": 3}, {"agent_starts": 2}, {})[0]
    assert "never arrived" in notes({"missing": 5})[0]
