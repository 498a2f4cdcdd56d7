-- Made from aggregator/storage/tables.py by `python -m aggregator.storage.cluster`; do not edit.
-- Run once, on any server of the cluster, in the database that --storage names.
-- Macros used: {cluster}, {shard}, {replica}. See docs/storage.md.
-- The names that are queried and inserted into.

CREATE TABLE IF NOT EXISTS samples ON CLUSTER '{cluster}' AS samples_local
ENGINE = Distributed('{cluster}', currentDatabase(), samples_local, batch);

CREATE TABLE IF NOT EXISTS samples_hour ON CLUSTER '{cluster}' AS samples_hour_local
ENGINE = Distributed('{cluster}', currentDatabase(), samples_hour_local, stack);

CREATE TABLE IF NOT EXISTS samples_day ON CLUSTER '{cluster}' AS samples_day_local
ENGINE = Distributed('{cluster}', currentDatabase(), samples_day_local, stack);

CREATE TABLE IF NOT EXISTS rolled ON CLUSTER '{cluster}' AS rolled_local
ENGINE = Distributed('{cluster}', currentDatabase(), rolled_local, start);

CREATE TABLE IF NOT EXISTS fleet_10m ON CLUSTER '{cluster}' AS fleet_10m_local
ENGINE = Distributed('{cluster}', currentDatabase(), fleet_10m_local, stack);

CREATE TABLE IF NOT EXISTS fleet_hour ON CLUSTER '{cluster}' AS fleet_hour_local
ENGINE = Distributed('{cluster}', currentDatabase(), fleet_hour_local, stack);

CREATE TABLE IF NOT EXISTS fleet_day ON CLUSTER '{cluster}' AS fleet_day_local
ENGINE = Distributed('{cluster}', currentDatabase(), fleet_day_local, stack);

CREATE TABLE IF NOT EXISTS fleet_rolled ON CLUSTER '{cluster}' AS fleet_rolled_local
ENGINE = Distributed('{cluster}', currentDatabase(), fleet_rolled_local, start);

CREATE TABLE IF NOT EXISTS series ON CLUSTER '{cluster}' AS series_local
ENGINE = Distributed('{cluster}', currentDatabase(), series_local, series);

CREATE TABLE IF NOT EXISTS stacks ON CLUSTER '{cluster}' AS stacks_local
ENGINE = Distributed('{cluster}', currentDatabase(), stacks_local, stack);

CREATE TABLE IF NOT EXISTS mappings ON CLUSTER '{cluster}' AS mappings_local
ENGINE = Distributed('{cluster}', currentDatabase(), mappings_local, mapping);

CREATE TABLE IF NOT EXISTS named ON CLUSTER '{cluster}' AS named_local
ENGINE = Distributed('{cluster}', currentDatabase(), named_local, named);

CREATE TABLE IF NOT EXISTS stack_numbers ON CLUSTER '{cluster}' AS stack_numbers_local
ENGINE = Distributed('{cluster}', currentDatabase(), stack_numbers_local, cityHash64(node));

CREATE TABLE IF NOT EXISTS ledger ON CLUSTER '{cluster}' AS ledger_local
ENGINE = Distributed('{cluster}', currentDatabase(), ledger_local, batch);

CREATE TABLE IF NOT EXISTS rejected ON CLUSTER '{cluster}' AS rejected_local
ENGINE = Distributed('{cluster}', currentDatabase(), rejected_local, message);

CREATE TABLE IF NOT EXISTS state ON CLUSTER '{cluster}' AS state_local
ENGINE = Distributed('{cluster}', currentDatabase(), state_local, cityHash64(key));
