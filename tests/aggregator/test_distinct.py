"""distinct: what numpy's sorting says, by a faster way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator import distinct as module
from aggregator.distinct import distinct, distinct_runs


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5)), st.booleans())
def test_values_are_ascending_and_the_index_leads_back(keys: list[int], runs: bool) -> None:
    """Both functions answer what sets and positions say."""
    column = np.array(keys, np.uint64)
    values, index = (distinct_runs if runs else distinct)(column)
    assert values.tolist() == sorted(set(keys))
    assert values[index].tolist() == keys


@pytest.mark.parametrize("spread", [3, 1000, 1 << 40])
def test_hashing_agrees_with_sorting(spread: int) -> None:
    """Long columns, few or many distinct values, give numpy's own answer."""
    keys = np.random.default_rng(spread).integers(0, spread, 600_000).astype(np.uint64)
    values, index = np.unique(keys, return_inverse=True)
    ours = distinct(keys)
    assert np.array_equal(ours[0], values)
    assert np.array_equal(ours[1], index)


def test_keys_that_cluster_are_sorted_instead() -> None:
    """Keys made to share a slot are given up after a bounded number of probes, with the same answer."""
    inverse = pow(int(module._FACTOR), -1, 1 << 64)
    keys = (np.arange(2000, dtype=np.uint64) * np.uint64(inverse)).repeat(300)
    values, index = distinct(keys)
    assert len(values) == 2000
    assert np.array_equal(values[index], keys)
