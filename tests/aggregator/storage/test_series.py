"""Series of the fleet: what is left of a series when it does not matter where it ran."""

from hypothesis import given
from hypothesis import strategies as st

from aggregator.storage.series import PLACES, of_fleet
from tests.aggregator.storage.fleet import labels

NAMES = st.sampled_from([*sorted(PLACES), "comm", "service", "unit"])
SETS = st.lists(st.dictionaries(NAMES, st.sampled_from("abc")), max_size=20)


@given(SETS)
def test_series_are_one_exactly_if_they_differ_in_places_alone(sets: list[dict[str, str]]) -> None:
    """One id for each set of the other labels, in the order of what was given."""
    left = [tuple(sorted((name, value) for name, value in one.items() if name not in PLACES)) for one in sets]
    found = of_fleet([labels(**one) for one in sets]).tolist()
    assert len(found) == len(sets)
    assert len(set(zip(left, found, strict=True))) == len(set(left)) == len(set(found))


def test_series_of_the_fleet_are_part_of_the_stored_schema() -> None:
    """Other ids, or other places, would not be found in sums that are stored: a change is a migration."""
    places = dict.fromkeys(("node", "container", "pod", "instance", "host", "pid", "thread"), "x")
    found = of_fleet([labels(comm="x", **places), labels(comm="x", service="y")])
    assert found.tolist() == [10177420681106443201, 10874777080989366235]
