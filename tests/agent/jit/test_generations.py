"""Who holds an address when memory goes from one function to another."""

from hypothesis import given
from hypothesis import strategies as st

from agent.jit.generations import AMBIGUOUS, NOBODY, Generations
from tests.agent.jit.writing import Code, entries_of, points

NAMES = "abcd"


def holders(generations: Generations, *addresses: int) -> list[str]:
    """Names, or why there is none; digests stand for names."""
    known = {int(entries_of([(1, 1, name)]).digest[0]): name for name in NAMES}
    found = generations.find(points(*addresses))
    said = {NOBODY: "-", AMBIGUOUS: "?"}
    return [said.get(row) or known[int(found.entries.digest[row])] for row in found.which.tolist()]


def reading(generations: Generations, at: int, *code: Code, anew: bool = False) -> None:
    generations.add(entries_of(code), read_ns=at, anew=anew)


def test_an_entry_holds_its_addresses_and_no_others() -> None:
    """From its start to the byte before its end."""
    made = Generations()
    reading(made, 5, (0x100, 0x10, "a"), (0x110, 0x10, "b"))
    for before in (0, 9):
        made.settle(before)
        assert holders(made, 0xFF, 0x100, 0x10F, 0x110, 0x11F, 0x120) == ["-", "a", "a", "b", "b", "-"]


def test_the_last_entry_before_the_window_holds() -> None:
    """Memory that was given away before belongs to whom it was given, also what the new owner does not fill."""
    made = Generations()
    reading(made, 5, (0x100, 0x40, "a"), (0x100, 0x10, "b"))
    reading(made, 6, (0x200, 0x40, "c"))
    reading(made, 7, (0x210, 0x10, "d"))
    made.settle(10)
    assert holders(made, 0x105, 0x120, 0x205, 0x215, 0x230) == ["b", "-", "-", "d", "-"]
    assert len(made) == 2


def test_what_changed_hands_within_the_window_is_ambiguous() -> None:
    """A sample has no time of its own: it may be the former's or the latter's."""
    made = Generations()
    reading(made, 5, (0x100, 0x20, "a"), (0x200, 0x20, "a"))
    made.settle(10)
    reading(made, 15, (0x110, 0x20, "b"), (0x200, 0x20, "a"), (0x300, 0x10, "c"))
    assert holders(made, 0x105, 0x115, 0x125, 0x205, 0x305) == ["a", "?", "b", "a", "c"]
    made.settle(20)
    assert holders(made, 0x105, 0x115, 0x125, 0x205, 0x305) == ["-", "b", "b", "a", "c"]


def test_two_names_in_one_reading_are_ambiguous() -> None:
    """Both may have come within the window."""
    made = Generations()
    reading(made, 15, (0x100, 0x10, "a"), (0x108, 0x10, "b"))
    assert holders(made, 0x104, 0x10C, 0x114) == ["a", "?", "b"]
    made.settle(20)
    assert holders(made, 0x104, 0x10C, 0x114) == ["-", "b", "b"]


def test_a_map_written_anew_takes_the_place_of_the_former() -> None:
    """What both say is certain at once; what the new one lacks ends with the window."""
    made = Generations()
    reading(made, 5, (0x100, 0x10, "a"), (0x200, 0x10, "b"), (0x300, 0x10, "c"))
    made.settle(10)
    reading(made, 15, (0x100, 0x10, "a"), (0x200, 0x10, "d"), anew=True)
    assert holders(made, 0x100, 0x200, 0x300) == ["a", "?", "c"]
    made.settle(20)
    assert holders(made, 0x100, 0x200, 0x300) == ["a", "d", "-"]
    reading(made, 25, anew=True)
    made.settle(30)
    assert holders(made, 0x100, 0x200, 0x300) == ["-", "-", "-"]


def test_what_a_new_map_gives_to_others_is_counted() -> None:
    """It tells how often a name of the former map was out of date."""
    made = Generations()
    reading(made, 5, (0x100, 0x10, "a"), (0x200, 0x10, "b"), (0x300, 0x10, "c"))
    made.settle(10)
    assert made.count_replaced(entries_of([(0x100, 0x10, "a"), (0x204, 0x10, "d"), (0x400, 0x10, "b")])) == 1


CODE = st.tuples(st.integers(0, 40), st.integers(1, 12), st.sampled_from(NAMES))


@given(st.lists(st.tuples(st.lists(CODE, max_size=6), st.booleans()), max_size=6), st.integers(0, 6))
def test_a_name_is_never_wrong(readings: list[tuple[list[Code], bool]], settled: int) -> None:
    """Against each address's history, byte by byte: a name is the one that it had all window long, or the only one."""
    made = Generations()
    now: dict[int, Code] = {}
    names: dict[int, set[str]] = {}

    def write(code: Code) -> None:
        for byte in {b for b, owner in now.items() if b in range(code[0], code[0] + code[1]) for b in _bytes(owner)}:
            now.pop(byte, None)
        now.update(dict.fromkeys(_bytes(code), code))

    for at, (codes, anew) in enumerate(readings):
        reading(made, at + 1, *codes, anew=anew)
        if at == settled:
            made.settle(at)
            names = {byte: {owner[2]} for byte, owner in now.items()}
        if anew:
            now.clear()
        for code in codes:
            write(code)
            for byte in _bytes(code):
                names.setdefault(byte, set()).add(code[2])
    if settled >= len(readings):
        made.settle(len(readings))
        names = {byte: {owner[2]} for byte, owner in now.items()}
    for byte, name in enumerate(holders(made, *range(60))):
        had = names.get(byte, set())
        assert name == ("-" if not had else "?" if len(had) > 1 else next(iter(had)))


def _bytes(code: Code) -> range:
    return range(code[0], code[0] + code[1])
