"""Prometheus metrics of the aggregator, all of them, so that their names are in one place."""

from prometheus_client import Counter, Gauge, Histogram

_PREFIX = "fleetflame_aggregator"
_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)

MESSAGES = Counter(f"{_PREFIX}_messages", "Messages from nodes by what became of them.", ["outcome"])
REJECTED = Counter(f"{_PREFIX}_rejected", "Messages that were set aside, by reason.", ["reason"])
SAMPLES = Counter(f"{_PREFIX}_samples_stored", "Samples stored (sum of counts).")
ROWS = Counter(f"{_PREFIX}_rows_stored", "Sample rows stored.")
STACKS = Counter(f"{_PREFIX}_stacks_stored", "Stacks stored, with their frames.")
LOST = Counter(f"{_PREFIX}_samples_lost", "Samples that nodes reported lost, by reason.", ["reason"])
DEGRADED = Counter(f"{_PREFIX}_samples_degraded", "Samples stored with a placeholder frame, by reason.", ["reason"])
POSTPONED = Counter(f"{_PREFIX}_messages_postponed", "Deliveries given back because a stack number was not known yet.")
INGEST_LAG = Histogram(
    f"{_PREFIX}_ingest_lag_seconds",
    "From the end of a batch's window until it can be queried.",
    buckets=(0.3, 1, 2, 3, 5, 10, 30, 100, 300, 1000, 3600),
)
GROUP_SECONDS = Histogram(f"{_PREFIX}_group_seconds", "Storing one group of batches.", buckets=_SECONDS)
PENDING = Gauge(f"{_PREFIX}_messages_pending", "Messages in the stream that no aggregator has taken yet.")
NUMBER_TABLES = Gauge(f"{_PREFIX}_number_tables", "Dictionaries of stack numbers in memory.")
HEALTHY = Gauge(f"{_PREFIX}_store_healthy", "1 while the store takes inserts.")

STATEMENT_SECONDS = Histogram(f"{_PREFIX}_statement_seconds", "Statements of the store.", ["kind"], buckets=_SECONDS)
STORE_ERRORS = Counter(f"{_PREFIX}_store_errors", "Statements that failed, by kind of trouble.", ["fault"])
DISK_BYTES = Gauge(f"{_PREFIX}_disk_bytes", "Bytes that the data take on disk.")
DROPPED_DAYS = Counter(f"{_PREFIX}_dropped_days", "Days of data dropped, by why.", ["why"])
DROPPED_ROWS = Counter(f"{_PREFIX}_dropped_rows", "Rows dropped with them, by why.", ["why"])
ROLLED_HOURS = Counter(f"{_PREFIX}_rolled_hours", "Hours summed up, again after late batches included.")
FRAME_CACHE = Counter(f"{_PREFIX}_frame_cache", "Stacks looked up in the frame cache.", ["result"])

REQUESTS = Counter(f"{_PREFIX}_requests", "HTTP requests, by endpoint and status.", ["endpoint", "status"])
REQUEST_SECONDS = Histogram(
    f"{_PREFIX}_request_seconds", "HTTP requests, until the answer begins.", ["endpoint"], buckets=_SECONDS
)
QUERIES = Counter(f"{_PREFIX}_queries", "Questions to the store, by what became of them.", ["outcome"])
QUERIES_IN_HAND = Gauge(f"{_PREFIX}_queries_in_hand", "Questions at work or waiting for their turn.")
QUERY_STAGE_SECONDS = Histogram(
    f"{_PREFIX}_query_stage_seconds", "Parts of the work on a question.", ["stage"], buckets=_SECONDS
)

SYMBOL_ADDRESSES = Counter(f"{_PREFIX}_symbol_addresses", "Addresses that queries looked up, by result.", ["result"])
SYMBOL_FILES = Counter(f"{_PREFIX}_symbol_files", "Symbol files by what became of them.", ["outcome"])
SYMBOL_SEARCHES = Counter(f"{_PREFIX}_symbol_searches", "Searches for a build's symbols, by outcome.", ["outcome"])
SYMBOLS_WANTED = Gauge(f"{_PREFIX}_symbols_wanted", "Builds whose symbols are being looked for, or wait for it.")
SYMBOL_BUILDS = Gauge(f"{_PREFIX}_symbol_builds", "Builds that have symbols.")
SYMBOL_BYTES = Gauge(f"{_PREFIX}_symbol_bytes", "Bytes that symbol tables and debug files take on disk.")
