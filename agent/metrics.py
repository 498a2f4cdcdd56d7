"""The agent's Prometheus metrics, all of them. Whoever counts imports from here; docs/metrics.md lists them.

Samples follow the ledger: taken = published + lost by reason + waiting, from the agent's start.
"""

from agent.instruments import Registry

REGISTRY = Registry()

_SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0)

WINDOWS = REGISTRY.counter("fleetflame_agent_windows_total", "Windows read from the kernel")
SAMPLES_TAKEN = REGISTRY.counter("fleetflame_agent_samples_taken_total", "Samples that the kernel counted")
SAMPLES_LOST = REGISTRY.counters("fleetflame_agent_samples_lost_total", "Samples lost, by reason", "reason")
SAMPLES_DEGRADED = REGISTRY.counters(
    "fleetflame_agent_samples_degraded_total", "Samples with a placeholder frame, by reason", "reason"
)
KERNEL_SHORTAGES = REGISTRY.counters(
    "fleetflame_agent_kernel_shortages_total",
    "Times that the kernel programs lacked room or data, by what it cost: a stack or labels, never a sample",
    "kind",
)
PROCESSES = REGISTRY.counters(
    "fleetflame_agent_processes_total",
    "What was read of processes, what could not be, and what was forgotten for want of room",
    "what",
)
JIT = REGISTRY.counters(
    "fleetflame_agent_jit_total", "What perf maps of generated code said, and what could not be read of them", "what"
)
JVM_MAPS = REGISTRY.counters(
    "fleetflame_agent_jvm_maps_total", "JVMs that were asked for their perf map, by what became of it", "answer"
)
CONTAINER_QUESTIONS = REGISTRY.counters(
    "fleetflame_agent_container_questions_total",
    "Containers whose names were asked for, and engines that failed",
    "what",
)
PYTHON_FUNCTIONS = REGISTRY.counters(
    "fleetflame_agent_python_functions_total", "Python functions whose names were read, by what became of it", "what"
)
PYTHON_BUILDS_REFUSED = REGISTRY.counters(
    "fleetflame_agent_python_builds_refused_total", "Files with a CPython that is not looked into, by reason", "reason"
)
DRAIN_SECONDS = REGISTRY.histogram("fleetflame_agent_drain_seconds", "Reading one window from the kernel", _SECONDS)
NORMALIZE_SECONDS = REGISTRY.histogram(
    "fleetflame_agent_normalize_seconds", "From addresses to builds and labels", _SECONDS
)
ENCODE_SECONDS = REGISTRY.histogram("fleetflame_agent_encode_seconds", "From one window to its messages", _SECONDS)
DICTIONARY_STACKS = REGISTRY.gauge("fleetflame_agent_dictionary_stacks", "Stacks that the receiver knows by number")

UNWIND_TABLES = REGISTRY.counters(
    "fleetflame_agent_unwind_tables_total", "Unwind tables loaded and taken away, and why a build has none", "outcome"
)
UNWIND_ROWS = REGISTRY.gauge("fleetflame_agent_unwind_rows", "Rows of unwind tables in the kernel, 4 bytes each")

CONNECTED = REGISTRY.gauge("fleetflame_agent_connected", "1 while there is a connection to NATS")
RECONNECTS = REGISTRY.counter("fleetflame_agent_reconnects_total", "Connections to NATS made again")
SAMPLES_PUBLISHED = REGISTRY.counter(
    "fleetflame_agent_samples_published_total", "Samples carried by messages that the stream stored"
)
MESSAGES_PUBLISHED = REGISTRY.counter("fleetflame_agent_messages_published_total", "Messages that were stored")
BYTES_PUBLISHED = REGISTRY.counter("fleetflame_agent_bytes_published_total", "Their compressed size")
MESSAGES_DUPLICATE = REGISTRY.counter(
    "fleetflame_agent_messages_duplicate_total", "Messages that the stream had stored already"
)
MESSAGES_DROPPED = REGISTRY.counters(
    "fleetflame_agent_messages_dropped_total", "Messages never sent, by reason", "reason"
)
PUBLISH_FAILURES = REGISTRY.counters(
    "fleetflame_agent_publish_failures_total", "Attempts to publish that failed, by cause", "cause"
)
PUBLISH_SECONDS = REGISTRY.histogram("fleetflame_agent_publish_seconds", "Until a message is acknowledged", _SECONDS)
QUEUE_MESSAGES = REGISTRY.gauge("fleetflame_agent_queue_messages", "Messages that wait to be sent")
QUEUE_BYTES = REGISTRY.gauge("fleetflame_agent_queue_bytes", "Their size")
QUEUE_LIMIT_BYTES = REGISTRY.gauge("fleetflame_agent_queue_limit_bytes", "Above it the oldest are dropped")

REQUESTS = REGISTRY.counters(
    "fleetflame_agent_requests_total", "Requests answered, by verb and outcome", "verb", "outcome"
)
LENT_BYTES = REGISTRY.counter("fleetflame_agent_lent_bytes_total", "Compressed bytes put into the object store")
