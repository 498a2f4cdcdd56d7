"""DDL files for a replicated, sharded cluster, from the definitions of the tables.

    python -m aggregator.storage.cluster deploy/clickhouse      writes them; a test fails while they differ

The servers' macros say who they are: `{cluster}`, `{shard}`, `{replica}`. A table's rows are spread over the shards by
what makes them the same row, so that a batch that comes twice comes to the same server.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from aggregator.storage.tables import TABLES, create_distributed, create_local
from aggregator.storage.types import StorageOptions

_HEAD = """\
-- Made from aggregator/storage/tables.py by `python -m aggregator.storage.cluster`; do not edit.
-- Run once, on any server of the cluster, in the database that --storage names.
-- Macros used: {{cluster}}, {{shard}}, {{replica}}. See docs/storage.md.
-- {what}

"""


def make_files(cluster: str = "{cluster}") -> Mapping[str, str]:
    """Content by file name."""
    days = StorageOptions(location="cluster").days
    local = ";\n\n".join(create_local(table, days, cluster).rstrip() for table in TABLES)
    distributed = ";\n\n".join(create_distributed(table, cluster).rstrip() for table in TABLES)
    return {
        "1-local.sql": _HEAD.format(what="What each server keeps, replicated within its shard.") + local + ";\n",
        "2-distributed.sql": _HEAD.format(what="The names that are queried and inserted into.") + distributed + ";\n",
    }


def main() -> None:
    """Writes the files into the folder in argv."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in make_files().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
