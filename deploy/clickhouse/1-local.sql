-- Made from aggregator/storage/tables.py by `python -m aggregator.storage.cluster`; do not edit.
-- Run once, on any server of the cluster, in the database that --storage names.
-- Macros used: {cluster}, {shard}, {replica}. See docs/storage.md.
-- What each server keeps, replicated within its shard.

CREATE TABLE IF NOT EXISTS samples_local ON CLUSTER '{cluster}'
(
    type LowCardinality(String),
    series UInt64,
    time DateTime('UTC') CODEC(ZSTD(1)),
    stack UInt64 CODEC(LZ4),
    batch UInt64 CODEC(ZSTD(1)),
    count UInt64 CODEC(T64, ZSTD(1)),
    value UInt64 CODEC(ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/samples', '{replica}')
PARTITION BY toYYYYMMDD(time)
ORDER BY (type, toStartOfTenMinutes(time), series, time, stack, batch)
TTL time + INTERVAL 15 DAY
SETTINGS index_granularity = 8192, fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS samples_hour_local ON CLUSTER '{cluster}'
(
    type LowCardinality(String),
    series UInt64 CODEC(LZ4),
    start DateTime('UTC') CODEC(LZ4),
    version UInt64 CODEC(LZ4),
    stack UInt64 CODEC(LZ4),
    count UInt64 CODEC(LZ4),
    value UInt64 CODEC(LZ4)
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/samples_hour', '{replica}')
PARTITION BY toYYYYMMDD(start)
ORDER BY (type, series, start, version, stack)
TTL start + INTERVAL 105 DAY
SETTINGS index_granularity = 8192, fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS samples_day_local ON CLUSTER '{cluster}'
(
    type LowCardinality(String),
    series UInt64 CODEC(LZ4),
    start DateTime('UTC') CODEC(LZ4),
    version UInt64 CODEC(LZ4),
    stack UInt64 CODEC(LZ4),
    count UInt64 CODEC(LZ4),
    value UInt64 CODEC(LZ4)
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/samples_day', '{replica}')
PARTITION BY toYYYYMMDD(start)
ORDER BY (type, series, start, version, stack)
TTL start + INTERVAL 105 DAY
SETTINGS index_granularity = 8192, fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS rolled_local ON CLUSTER '{cluster}'
(
    span UInt32,
    start DateTime('UTC'),
    version UInt64,
    batches UInt64,
    done UInt8
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/rolled', '{replica}')
PARTITION BY toYYYYMM(start)
ORDER BY (span, start, version, done)
TTL start + INTERVAL 105 DAY
SETTINGS index_granularity = 8192, fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS fleet_10m_local ON CLUSTER '{cluster}'
(
    type LowCardinality(String),
    series UInt64 CODEC(LZ4),
    start DateTime('UTC') CODEC(LZ4),
    version UInt64 CODEC(LZ4),
    stack UInt64 CODEC(LZ4),
    count UInt64 CODEC(LZ4),
    value UInt64 CODEC(LZ4)
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/fleet_10m', '{replica}')
PARTITION BY toYYYYMMDD(start)
ORDER BY (type, start, version, series, stack)
TTL start + INTERVAL 17 DAY
SETTINGS index_granularity = 8192, fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS fleet_hour_local ON CLUSTER '{cluster}'
(
    type LowCardinality(String),
    series UInt64 CODEC(LZ4),
    start DateTime('UTC') CODEC(LZ4),
    version UInt64 CODEC(LZ4),
    stack UInt64 CODEC(LZ4),
    count UInt64 CODEC(LZ4),
    value UInt64 CODEC(LZ4)
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/fleet_hour', '{replica}')
PARTITION BY toYYYYMMDD(start)
ORDER BY (type, start, version, series, stack)
TTL start + INTERVAL 105 DAY
SETTINGS index_granularity = 8192, fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS fleet_day_local ON CLUSTER '{cluster}'
(
    type LowCardinality(String),
    series UInt64 CODEC(LZ4),
    start DateTime('UTC') CODEC(LZ4),
    version UInt64 CODEC(LZ4),
    stack UInt64 CODEC(LZ4),
    count UInt64 CODEC(LZ4),
    value UInt64 CODEC(LZ4)
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/fleet_day', '{replica}')
PARTITION BY toYYYYMMDD(start)
ORDER BY (type, start, version, series, stack)
TTL start + INTERVAL 105 DAY
SETTINGS index_granularity = 8192, fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS fleet_rolled_local ON CLUSTER '{cluster}'
(
    span UInt32,
    start DateTime('UTC'),
    version UInt64,
    batches UInt64,
    done UInt8
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/fleet_rolled', '{replica}')
PARTITION BY toYYYYMM(start)
ORDER BY (span, start, version, done)
TTL start + INTERVAL 105 DAY
SETTINGS index_granularity = 8192, fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS series_local ON CLUSTER '{cluster}'
(
    day DateTime('UTC'),
    series UInt64,
    labels Map(String, String)
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/series', '{replica}')
PARTITION BY toYYYYMMDD(day)
ORDER BY (series, day)
TTL day + INTERVAL 105 DAY
SETTINGS index_granularity = 8192, fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS stacks_local ON CLUSTER '{cluster}'
(
    week DateTime('UTC'),
    stack UInt64,
    mapping Array(UInt64) CODEC(ZSTD(1)),
    address Array(UInt64) CODEC(ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/stacks', '{replica}')
PARTITION BY toYYYYMMDD(week)
ORDER BY (stack)
TTL week + INTERVAL 105 DAY
SETTINGS index_granularity = 512, fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS mappings_local ON CLUSTER '{cluster}'
(
    week DateTime('UTC'),
    mapping UInt64,
    kind UInt8,
    build_id String,
    path String,
    seen UInt8,
    segment_offset Array(UInt64),
    segment_vaddr Array(UInt64),
    segment_size Array(UInt64)
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/mappings', '{replica}')
PARTITION BY toYYYYMMDD(week)
ORDER BY (mapping, path, seen)
TTL week + INTERVAL 105 DAY
SETTINGS index_granularity = 1024, fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS named_local ON CLUSTER '{cluster}'
(
    week DateTime('UTC'),
    named UInt64,
    name String,
    file String,
    line UInt64
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/named', '{replica}')
PARTITION BY toYYYYMMDD(week)
ORDER BY (named)
TTL week + INTERVAL 105 DAY
SETTINGS index_granularity = 1024, fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS stack_numbers_local ON CLUSTER '{cluster}'
(
    time DateTime('UTC'),
    node LowCardinality(String),
    epoch String,
    dictionary UInt32,
    first UInt32,
    stacks Array(UInt64)
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/stack_numbers', '{replica}')
PARTITION BY toYYYYMMDD(time)
ORDER BY (node, epoch, dictionary, first)
TTL time + INTERVAL 3 DAY
SETTINGS index_granularity = 256, fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS ledger_local ON CLUSTER '{cluster}'
(
    node LowCardinality(String),
    epoch String,
    sequence UInt64,
    batch UInt64,
    time DateTime('UTC'),
    taken UInt64,
    stored UInt64,
    lost Map(String, UInt64),
    degraded Map(String, UInt64),
    taken_in_epoch UInt64,
    period_ns UInt64,
    received DateTime('UTC')
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/ledger', '{replica}')
PARTITION BY toYYYYMMDD(time)
ORDER BY (node, epoch, sequence)
TTL time + INTERVAL 15 DAY
SETTINGS index_granularity = 8192, fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS rejected_local ON CLUSTER '{cluster}'
(
    time DateTime('UTC'),
    node LowCardinality(String),
    reason LowCardinality(String),
    message UInt64,
    samples UInt64
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/rejected', '{replica}')
PARTITION BY toYYYYMMDD(time)
ORDER BY (node, reason, message)
TTL time + INTERVAL 15 DAY
SETTINGS index_granularity = 8192, fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS state_local ON CLUSTER '{cluster}'
(
    key String,
    value UInt64,
    version UInt64
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/state', '{replica}', version)
ORDER BY (key)
SETTINGS index_granularity = 8192, fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1, ttl_only_drop_parts = 1;
