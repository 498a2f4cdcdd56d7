"""Names that are remembered: nobody can tell, except by the time it takes."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from aggregator.fold import fold
from aggregator.names import Names
from aggregator.profile import Profile, index_stacks, make_profile
from aggregator.render import pprof
from aggregator.render.folded import render
from aggregator.selector import parse_selector
from aggregator.storage import ids
from aggregator.storage.stacktree import StackTree
from aggregator.storage.types import ProfileQuery, Selected, StackRows
from aggregator.symbols.service import SymbolConfig, SymbolService
from fleetflame.model import FrameMiss, Mapping, MappingKind, NamedFrame
from tests.aggregator.profiles import APP, JIT, KERNEL, LIBC, MISS, MODULE, Answer, Frame, symbolizer
from tests.aggregator.profiles import Names as Known

ALL = (APP, LIBC, KERNEL, MODULE, JIT, MISS)
KNOWN: Known = {
    (APP, 1): [("main", "app.c", 3)],
    (APP, 2): [("work", "app.c", 9), ("square", "math.h", 4), ("mul", "math.h", 1)],
    (APP, 3): [("work", "app.c", 10)],
    (KERNEL, 1): [("vfs_read", "", 0)],
}
QUERY = ProfileQuery(selector=parse_selector("cpu"), from_ns=0, until_ns=10**9)


@dataclass
class Fleet:
    """What a store and a symbolizer know, and a tree of the stacks that were asked for."""

    stacks: list[list[Frame]]
    known: Known = field(default_factory=lambda: dict(KNOWN))
    renamed: dict[Mapping, Mapping] = field(default_factory=dict)
    lost: bool = False
    version: int = 0
    asked: int = 0
    tree: StackTree = field(default_factory=StackTree)

    def mappings(self, wanted: Iterable[int]) -> dict[int, Mapping]:
        """As the store."""
        all_ = {ids.mapping_id(mapping): self.renamed.get(mapping, mapping) for mapping in ALL}
        return {number: all_[number] for number in wanted if number in all_}

    def named(self, wanted: Iterable[int]) -> dict[int, NamedFrame]:
        """As the store."""
        return {} if self.lost else {number: NamedFrame(f"hot{number}") for number in wanted}

    def symbolize(self, mapping: Mapping, addresses: NDArray[np.uint64]) -> Answer:
        """As the symbol service."""
        self.asked += len(addresses)
        return symbolizer(self.known)(mapping, addresses)

    def rows(self) -> StackRows:
        """All stacks."""
        flat = [frame for stack in self.stacks for frame in stack]
        offsets = np.cumsum([0, *map(len, self.stacks)]).astype(np.uint64)
        mapping = np.array([ids.mapping_id(mapping) for mapping, _ in flat], np.uint64)
        address = np.array([address for _, address in flat], np.uint64)
        stack_ids = ids.stack_ids(offsets, mapping, address)
        return StackRows(ids=stack_ids, offsets=offsets, mapping=mapping, address=address)

    def ask(self, names: Names, which: list[int], *, kernel: bool = True, lost: int = 0) -> Profile:
        """The profile of one sample of each of the stacks `which`, and of `lost` stacks that are not stored."""
        rows = self.rows()
        stacks = np.append(rows.ids[which], np.arange(lost, dtype=np.uint64))
        fresh = np.unique(rows.ids[which])
        fresh = fresh[self.tree.find(fresh) < 0]
        self.tree = self.tree.with_stacks(ids.taken(rows, np.flatnonzero(np.isin(rows.ids, fresh))))
        ends, stack = index_stacks(stacks, self.tree.find(stacks))
        ones = np.ones(len(stacks), np.uint64)
        group = np.zeros(len(stacks), np.uint32)
        selected = Selected(groups=(("c",),), group=group, stack=stacks, count=ones, value=ones)
        named = names.of(self.tree, ends, self, kernel=kernel)
        return make_profile(selected, named, stack, query=QUERY, kernel=kernel)


def fleet(seed: int) -> Fleet:
    """Stacks of every kind of frame."""
    random = Random(seed)
    frames: list[Frame] = [(mapping, at) for mapping in ALL[:5] for at in (1, 2, 3)]
    frames += [(MISS, FrameMiss.DEPTH_LIMIT), (MISS, FrameMiss.UNMAPPED), (MISS, FrameMiss.KERNEL_HIDDEN)]
    stacks = [[random.choice(frames) for _ in range(random.randint(0, 6))] for _ in range(30)]
    return Fleet(list(map(list, dict.fromkeys(map(tuple, stacks)))))


@pytest.mark.parametrize("seed", range(12))
def test_what_was_asked_before_changes_no_answer(seed: int) -> None:
    """Questions in random order, with the kernel and without: the same as from one that remembers nothing."""
    random, asked = Random(seed), fleet(seed)
    remembering, forgetful = Names(asked.symbolize, lambda _: asked.version), Names(asked.symbolize)
    for _ in range(8):
        which = random.sample(range(len(asked.stacks)), random.randint(0, len(asked.stacks)))
        how = {"kernel": random.random() < 0.6, "lost": random.randint(0, 2)}
        one, other = asked.ask(remembering, which, **how), asked.ask(forgetful, which, **how)
        assert one.completeness == other.completeness == fold(one).completeness()
        assert render(fold(one)) == render(fold(other))
        assert pprof.render(one) == pprof.render(other)
        if random.random() < 0.2:
            asked.known[APP, 1] = [(f"main{random.random()}", "", 0)]
            asked.version += 1


def test_names_are_looked_up_once() -> None:
    """For what is new, and again when symbols arrive."""
    asked = Fleet([[(APP, 1)], [(APP, 1), (APP, 2)], [(APP, 9)]])
    names = Names(asked.symbolize, lambda _: asked.version)
    asked.ask(names, [0])
    asked.ask(names, [0, 1])
    assert asked.asked == 2
    assert render(fold(asked.ask(names, [0, 1]))) == b"c;main 1\nc;main;work;square_[i];mul_[i] 1\n"
    assert asked.asked == 2
    asked.known[APP, 9] = [("late", "", 0)]
    asked.version += 1
    assert render(fold(asked.ask(names, [2]))) == b"c;late 1\n"
    assert asked.asked == 3


def test_without_a_version_nothing_is_remembered() -> None:
    """Nobody would say when it is out of date."""
    asked = Fleet([[(APP, 1)]])
    names = Names(asked.symbolize)
    asked.ask(names, [0])
    asked.ask(names, [0])
    assert asked.asked == 2


def test_a_mapping_that_becomes_known_names_its_frames() -> None:
    """A better path shows, and so does a mapping that the store did not have."""
    asked = Fleet([[(LIBC, 1)]], renamed={LIBC: Mapping(LIBC.kind, LIBC.build_id)})
    names = Names(asked.symbolize, lambda _: 0)
    assert render(fold(asked.ask(names, [0]))) == f"c;[{str(LIBC.build_id)[:12]}+0x1] 1\n".encode()
    asked.renamed.clear()
    assert render(fold(asked.ask(names, [0]))) == b"c;[libc.so.6+0x1] 1\n"


def test_a_named_frame_that_arrives_late_is_seen() -> None:
    """As long as one is missing, the store is asked again."""
    asked = Fleet([[(JIT, 5)]], lost=True)
    names = Names(asked.symbolize, lambda _: 0)
    assert render(fold(asked.ask(names, [0]))) == b"c;[jit frame] 1\n"
    asked.lost = False
    assert render(fold(asked.ask(names, [0]))) == b"c;hot5_[j] 1\n"


def test_another_tree_is_another_matter() -> None:
    """Numbers of nodes and places mean something within one lineage only."""
    asked = Fleet([[(APP, 1)], [(APP, 2)]])
    names = Names(asked.symbolize, lambda _: 0)
    asked.ask(names, [0])
    asked.tree = StackTree()
    assert render(fold(asked.ask(names, [1]))) == b"c;work;square_[i];mul_[i] 1\n"


def test_the_symbol_service_says_when_a_build_has_other_names(tmp_path: Path) -> None:
    """Nothing is known of a build without a table, and what cannot have one never changes."""
    service = SymbolService(SymbolConfig(folder=tmp_path))
    assert service.version(APP) is None
    assert service.version(Mapping(MappingKind.JIT)) is None
