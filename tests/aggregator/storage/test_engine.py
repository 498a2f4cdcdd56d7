"""Handles to the engine, and what they are told."""

import os
from pathlib import Path

import pytest

from aggregator.storage.engine import Engine
from aggregator.storage.types import StorageOptions


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor")
def test_a_query_uses_more_than_one_thread(tmp_path: Path) -> None:
    """Also with little memory, where the engine's defaults would leave it one."""
    engine = Engine(StorageOptions(location=str(tmp_path), memory_bytes=256 << 20))
    plan = engine.query("EXPLAIN PIPELINE SELECT number % 10 AS n, count() FROM numbers_mt(10000000) GROUP BY n")
    engine.close()
    assert any("AggregatingTransform ×" in line for line in plan.strings("explain"))
