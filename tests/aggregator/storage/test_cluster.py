"""The files for a cluster say what the tables are, in words that the engine understands."""

from contextlib import closing
from pathlib import Path

from aggregator.storage import Store, cluster
from aggregator.storage.types import StorageOptions

FOLDER = Path(__file__).parents[3] / "deploy" / "clickhouse"


def test_the_files_are_in_step_with_the_tables() -> None:
    """Run `python -m aggregator.storage.cluster deploy/clickhouse` if this fails."""
    assert {path.name: path.read_text() for path in FOLDER.glob("*.sql")} == cluster.make_files()


def test_the_engine_can_parse_every_statement(tmp_path: Path) -> None:
    """There is no cluster to run them on here; syntax, types and codecs are checked all the same."""
    with closing(Store(StorageOptions(location=str(tmp_path / "store")))) as store:
        for text in cluster.make_files("one").values():
            for statement in text.split(";\n"):
                if "CREATE" in statement:
                    store.engine.command(f"EXPLAIN AST {statement}")
