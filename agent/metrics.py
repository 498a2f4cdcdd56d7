"""The agent's Prometheus metrics, all of them. Whoever counts imports from here; docs/metrics.md lists them.

Samples follow the ledger: taken = published + lost by reason + waiting, from the agent's start.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry(auto_describe=True)
"""Ours alone: Python's own gauges would cost a node memory and say nothing about profiling."""

_SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0)

WINDOWS = Counter("fleetflame_agent_windows", "Windows read from the kernel", registry=REGISTRY)
SAMPLES_TAKEN = Counter("fleetflame_agent_samples_taken", "Samples that the kernel counted", registry=REGISTRY)
SAMPLES_LOST = Counter("fleetflame_agent_samples_lost", "Samples lost, by reason", ["reason"], registry=REGISTRY)
SAMPLES_DEGRADED = Counter(
    "fleetflame_agent_samples_degraded",
    "Samples with a placeholder frame, by reason",
    ["reason"],
    registry=REGISTRY,
)
KERNEL_SHORTAGES = Counter(
    "fleetflame_agent_kernel_shortages",
    "Times that the kernel programs lacked room or data, by what it cost: a stack or labels, never a sample",
    ["kind"],
    registry=REGISTRY,
)
PROCESSES = Counter(
    "fleetflame_agent_processes",
    "What was read of processes, what could not be, and what was forgotten for want of room",
    ["what"],
    registry=REGISTRY,
)
CONTAINER_QUESTIONS = Counter(
    "fleetflame_agent_container_questions",
    "Containers whose names were asked for, and engines that failed",
    ["what"],
    registry=REGISTRY,
)
DRAIN_SECONDS = Histogram(
    "fleetflame_agent_drain_seconds", "Reading one window from the kernel", buckets=_SECONDS, registry=REGISTRY
)
NORMALIZE_SECONDS = Histogram(
    "fleetflame_agent_normalize_seconds", "From addresses to builds and labels", buckets=_SECONDS, registry=REGISTRY
)
ENCODE_SECONDS = Histogram(
    "fleetflame_agent_encode_seconds", "From one window to its messages", buckets=_SECONDS, registry=REGISTRY
)
DICTIONARY_STACKS = Gauge(
    "fleetflame_agent_dictionary_stacks", "Stacks that the receiver knows by number", registry=REGISTRY
)

CONNECTED = Gauge("fleetflame_agent_connected", "1 while there is a connection to NATS", registry=REGISTRY)
RECONNECTS = Counter("fleetflame_agent_reconnects", "Connections to NATS made again", registry=REGISTRY)
SAMPLES_PUBLISHED = Counter(
    "fleetflame_agent_samples_published", "Samples carried by messages that the stream stored", registry=REGISTRY
)
MESSAGES_PUBLISHED = Counter("fleetflame_agent_messages_published", "Messages that were stored", registry=REGISTRY)
BYTES_PUBLISHED = Counter("fleetflame_agent_bytes_published", "Their compressed size", registry=REGISTRY)
MESSAGES_DUPLICATE = Counter(
    "fleetflame_agent_messages_duplicate", "Messages that the stream had stored already", registry=REGISTRY
)
MESSAGES_DROPPED = Counter(
    "fleetflame_agent_messages_dropped", "Messages never sent, by reason", ["reason"], registry=REGISTRY
)
PUBLISH_FAILURES = Counter(
    "fleetflame_agent_publish_failures", "Attempts to publish that failed, by cause", ["cause"], registry=REGISTRY
)
PUBLISH_SECONDS = Histogram(
    "fleetflame_agent_publish_seconds",
    "Until a message is acknowledged",
    buckets=_SECONDS,
    registry=REGISTRY,
)
QUEUE_MESSAGES = Gauge("fleetflame_agent_queue_messages", "Messages that wait to be sent", registry=REGISTRY)
QUEUE_BYTES = Gauge("fleetflame_agent_queue_bytes", "Their size", registry=REGISTRY)
QUEUE_LIMIT_BYTES = Gauge("fleetflame_agent_queue_limit_bytes", "Above it the oldest are dropped", registry=REGISTRY)

REQUESTS = Counter(
    "fleetflame_agent_requests", "Requests answered, by verb and outcome", ["verb", "outcome"], registry=REGISTRY
)
LENT_BYTES = Counter("fleetflame_agent_lent_bytes", "Compressed bytes put into the object store", registry=REGISTRY)
