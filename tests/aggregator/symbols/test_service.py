"""The whole of it: a build is wanted, found, looked up, and named anew when something better comes."""

import asyncio
import os
import subprocess
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY

from aggregator.symbols import hunt as hunting
from aggregator.symbols.faults import Fault, SymbolFileError
from aggregator.symbols.fetcher import AWAY_RETRY, MAX_NODES, MAX_QUEUE, MISSING_RETRY, POOR_RETRY
from aggregator.symbols.records import Verdict
from aggregator.symbols.service import SymbolConfig, SymbolService, in_segments
from aggregator.symbols.table import Rank
from fleetflame.buildid import BuildId
from fleetflame.errors import UsageError
from fleetflame.model import Mapping, MappingKind, Segment
from tests.aggregator.symbols.conftest import C_SOURCE, build, run, symbols_of
from tests.support.elf import BUILD_ID, ElfWriter, Sec, Seg, Sym, simple_elf

BUILD = BuildId(BUILD_ID)
SEGMENTS = (Segment(0x1000, 0x1000, 0x1000),)
FILE = Mapping(MappingKind.FILE, BUILD, "/opt/app/bin/app", SEGMENTS)


@asynccontextmanager
async def service(folder: Path, **settings: object) -> AsyncIterator[SymbolService]:
    """A running service that looks nowhere unless told."""
    config = SymbolConfig(folder=folder / "symbols", debug_dirs=(), local_files=False)
    made = SymbolService(replace(config, **settings))  # type: ignore[arg-type]
    async with made.running():
        yield made


def names(made: SymbolService, mapping: Mapping, *addresses: int) -> list[list[str]]:
    """Names at the addresses, outermost first."""
    found = made.lookup(mapping, np.array(addresses, np.uint64))
    flat = [found.strings[index] for index in found.function.tolist()]
    bounds = found.offsets.tolist()
    return [flat[a:b] for a, b in pairwise(bounds)]


def counted(metric: str, label: str, value: str) -> float:
    """A counter of this process."""
    return REGISTRY.get_sample_value(f"fleetflame_aggregator_{metric}_total", {label: value}) or 0


async def wanted(made: SymbolService, mapping: Mapping, node: str = "web-1") -> None:
    """Wants the mapping and waits until the search is over."""
    made.want(mapping, node)
    await made.fetcher.idle()


def write(path: Path, data: bytes) -> Path:
    """Writes a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def mapping_of(program: Path, **changes: object) -> Mapping:
    """The mapping that an agent sends of a program: build ID, path and executable segments as readelf prints them."""
    note = run("readelf", "-n", str(program))
    build_id = BuildId.parse(note.split("Build ID:")[1].split()[0])
    rows = [line.split() for line in run("readelf", "-lW", str(program)).splitlines() if " LOAD " in f" {line} "]
    segments = tuple(Segment(int(r[1], 16), int(r[2], 16), int(r[4], 16)) for r in rows if "E" in r[6:8])
    return replace(Mapping(MappingKind.FILE, build_id, str(program), segments), **changes)  # type: ignore[arg-type]


def offset_of(program: Path, mapping: Mapping, name: str) -> int:
    """A file offset inside the function of that name."""
    segment = mapping.segments[0]
    return symbols_of(program)[name][0] + 4 - segment.vaddr + segment.offset


async def test_what_is_not_known_has_no_names(tmp_path: Path) -> None:
    """And never raises, whatever the mapping is."""
    async with service(tmp_path) as made:
        for kind in MappingKind:
            assert names(made, Mapping(kind, BUILD, "x"), 1, 2) == [[], []]
        assert names(made, Mapping(MappingKind.JIT), 1) == [[]]
        assert made.lookup(FILE, np.zeros(0, np.uint64)).offsets.tolist() == [0]


async def test_a_debug_directory_names_a_build(tmp_path: Path) -> None:
    """In the layout of distributions; samples taken before have names from now on."""
    write(
        tmp_path / "debug/.build-id/00" / f"{str(BUILD)[2:]}.debug", simple_elf([Sym(name="f", value=0x1000, size=16)])
    )
    async with service(tmp_path, debug_dirs=(str(tmp_path / "debug"),)) as made:
        assert names(made, FILE, 0x1004) == [[]]
        await wanted(made, FILE)
        assert names(made, FILE, 0x1004, 0x1010) == [["f"], []]
        assert made.list()[0].kept.where.endswith(".debug")


async def test_offsets_become_addresses_by_the_segments(tmp_path: Path) -> None:
    """Of the mapping, else of the file; a file without either names nothing."""
    writer = ElfWriter(segments=[Seg(offset=0x2000, vaddr=0x401000, filesz=0x1000)])
    writer.text(addr=0x401000).note().symbols([Sym(name="f", value=0x401000, size=16)])
    upload = write(tmp_path / "app", bytes(writer))
    async with service(tmp_path) as made:
        await made.upload(upload, name="app", force=True)
        moved = (Segment(0x5000, 0x401000, 0x1000),)
        assert names(made, replace(FILE, segments=()), 0x2004, 0x1004) == [["f"], []]
        assert names(made, replace(FILE, segments=moved), 0x5004, 0x2004) == [["f"], []]


async def test_a_debug_link_is_followed_when_the_checksum_fits(tmp_path: Path) -> None:
    """Beside the binary, in .debug, under the debug directory; one with another checksum is passed over."""
    debug = simple_elf([Sym(name="deep", value=0x1000, size=16)])
    link = b"app.debug\0\0\0" + zlib.crc32(debug).to_bytes(4, "little")
    writer = ElfWriter(segments=[Seg(offset=0x1000, vaddr=0x1000, filesz=0x1000)]).text().note()
    binary = write(tmp_path / "opt/app", bytes(writer.add(Sec(name=".gnu_debuglink", data=link, align=4))))
    mapping = replace(FILE, path=str(binary), segments=())
    under = tmp_path / "debug" / str(binary.parent).lstrip("/") / "app.debug"
    for number, place in enumerate((binary.parent / "app.debug", binary.parent / ".debug/app.debug", under)):
        write(binary.parent / "app.debug", b"another file")
        write(place, debug)
        folder = tmp_path / str(number)
        async with service(folder, debug_dirs=(str(tmp_path / "debug"),), local_files=True) as made:
            await wanted(made, mapping)
            assert names(made, mapping, 0x1004) == [["deep"]]
        place.unlink()


async def test_a_local_file_of_another_build_is_not_used(tmp_path: Path) -> None:
    """The path is only where to look; the note decides."""
    other = write(tmp_path / "app", simple_elf([Sym(name="wrong", value=0x1000, size=16)], build_id=b"\x09" * 20))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with service(tmp_path, local_files=True) as made:
        for path in (other, fifo, Path("/dev/zero"), tmp_path, Path("relative")):
            await wanted(made, replace(FILE, path=str(path), build_id=BuildId(os.urandom(20))))
            await wanted(made, replace(FILE, path=str(path)), node=str(path))
        assert made.list() == ()
        assert {m.fault for m in made.missing()} == {Fault.NOT_FOUND}


async def test_late_debug_information_names_what_was_sampled_before(tmp_path: Path) -> None:
    """A stripped binary exports nothing; the debug file brings names, inlined frames and lines to the same offsets."""
    program = build(tmp_path, C_SOURCE, "-g", "-O2")
    debug, stripped = tmp_path / "prog.debug", tmp_path / "stripped"
    run("objcopy", "--only-keep-debug", str(program), str(debug))
    run("strip", "-o", str(stripped), str(program))
    mapping = mapping_of(program, path=str(stripped))
    at = offset_of(program, mapping, "outer")
    async with service(tmp_path, local_files=True) as made:
        await wanted(made, mapping)
        assert names(made, mapping, at) == [[]]
        assert [m.mapping for m in made.missing()] == [mapping]
        before = made.version(mapping)
        assert before == made.version(mapping)
        uploaded = await made.upload(debug, name="prog.debug")
        assert (uploaded.verdict, uploaded.seen) == (Verdict.BETTER, True)
        assert made.version(mapping) != before
        assert names(made, mapping, at)[0][0] == "outer"
        assert names(made, replace(mapping, segments=()), at)[0][0] == "outer"
        assert made.missing() == ()


async def test_a_debug_file_and_its_program_are_one_opinion(tmp_path: Path) -> None:
    """The debug file cannot name linkage slots: names that the binary had for them stay."""
    program = build(tmp_path, C_SOURCE, "-g", "-O2")
    debug, stripped = tmp_path / "prog.debug", tmp_path / "stripped"
    run("objcopy", "--only-keep-debug", str(program), str(debug))
    run("strip", "-o", str(stripped), str(program))
    mapping = mapping_of(program, path=str(stripped))
    segment = mapping.segments[0]
    offsets = range(segment.offset, segment.offset + segment.size, 16)
    async with service(tmp_path, local_files=True) as made:
        await wanted(made, mapping)
        slots = [
            at for at, found in zip(offsets, names(made, mapping, *offsets), strict=True) if found == ["printf@plt"]
        ]
        assert len(slots) == 1
        assert (await made.upload(debug, name="prog.debug")).verdict is Verdict.BETTER
        assert names(made, mapping, *slots) == [["printf@plt"]]
        assert (await made.upload(program, name="prog")).verdict is Verdict.SAME


async def test_a_wrong_file_is_refused_with_both_ids(tmp_path: Path) -> None:
    """Against the build that is said, and against those that were sampled; nothing is kept of it."""
    other = b"\x09" * 20
    wrong = write(tmp_path / "wrong.debug", simple_elf([Sym(name="g", value=0x1000, size=16)], build_id=other))
    async with service(tmp_path) as made:
        await wanted(made, FILE)
        for said in (str(BUILD), ""):
            with pytest.raises(SymbolFileError) as caught:
                await made.upload(wrong, name="wrong.debug", build_id=said)
            assert caught.value.fault is Fault.WRONG_BUILD_ID
            assert str(BUILD) in caught.value.message
            assert other.hex() in caught.value.message
        assert made.list() == ()
        assert "--build-id" in caught.value.hint
        kept = await made.upload(wrong, name="wrong.debug", build_id=other.hex().upper())
        assert not kept.seen


async def test_a_refusal_names_the_build_that_was_most_likely_meant(tmp_path: Path) -> None:
    """The one whose file has that name, however many others lack symbols; those without a path come last."""
    wrong = write(tmp_path / "x", simple_elf([Sym(name="g", value=0x1000, size=16)], build_id=b"\x09" * 20))
    async with service(tmp_path) as made:
        for number in range(20):
            path = f"/bin/a{number}" if number % 2 else ""
            await wanted(made, replace(FILE, build_id=BuildId(bytes([number + 100])), path=path))
        await wanted(made, FILE)
        with pytest.raises(SymbolFileError, match=rf"without symbols are {BUILD} \(`/opt/app/bin/app`\), .* 16 more"):
            await made.upload(wrong, name="app.debug")


async def test_a_path_that_is_learned_later_is_tried_at_once(tmp_path: Path) -> None:
    """The kernel said the build of a process that was gone before anybody saw its files; another process has it too."""
    program = write(tmp_path / "app", simple_elf([Sym(name="f", value=0x1000, size=16)]))
    async with service(tmp_path, local_files=True) as made:
        await wanted(made, replace(FILE, path=""))
        assert [missing.mapping.path for missing in made.missing()] == [""]
        await wanted(made, replace(FILE, path=str(program)))
        assert names(made, FILE, 0x1004) == [["f"]]


async def test_uploads_that_are_no_symbol_files_are_refused(tmp_path: Path) -> None:
    """With a typed fault and a message for people."""
    async with service(tmp_path, upload_bytes=1 << 20) as made:
        for data, fault in (
            (b"text", Fault.NOT_ELF),
            (simple_elf([])[:200], Fault.TRUNCATED),
            (bytes(ElfWriter().text().note()), Fault.NO_SYMBOLS),
            (bytes(ElfWriter().text().symbols([Sym(name="f", value=0x1000, size=4)])), Fault.NO_BUILD_ID),
            (bytes(2 << 20), Fault.TOO_LARGE),
        ):
            with pytest.raises(SymbolFileError) as caught:
                await made.upload(write(tmp_path / "file", data), name="file", force=True)
            assert caught.value.fault is fault
        with pytest.raises(UsageError):
            await made.upload(tmp_path / "file", name="file", build_id="not hex")


async def test_a_second_file_that_says_something_else_is_a_conflict(tmp_path: Path) -> None:
    """It is refused and recorded, unless the operator says that it replaces the first."""
    first = write(tmp_path / "first", simple_elf([Sym(name="first", value=0x1000, size=16)]))
    second = write(tmp_path / "second", simple_elf([Sym(name="second", value=0x1000, size=16)]))
    async with service(tmp_path) as made:
        await made.upload(first, name="first", force=True)
        assert (await made.upload(first, name="again", force=True)).verdict is Verdict.SAME
        with pytest.raises(SymbolFileError) as caught:
            await made.upload(second, name="second", force=True)
        assert caught.value.fault is Fault.CONFLICT
        assert names(made, FILE, 0x1004) == [["first"]]
        assert [kept.where for kept in made.list()[0].conflicts] == ["second"]
        replaced = await made.upload(second, name="second", force=True, replace=True)
        assert replaced.verdict is Verdict.REPLACED
        assert names(made, FILE, 0x1004) == [["second"]]


async def test_a_copy_without_its_code_is_no_conflict(tmp_path: Path) -> None:
    """What a node lends has other bytes than the file, and says the same."""
    data = simple_elf([Sym(name="f", value=0x1000, size=16)])
    filled = data[:0x800] + b"\x90" * 16 + data[0x810:]
    async with service(tmp_path) as made:
        await made.upload(write(tmp_path / "lent", data), name="lent", force=True)
        own = await made.upload(write(tmp_path / "own", filled), name="own", force=True)
        assert own.verdict is Verdict.SAME


async def test_a_refused_content_is_not_parsed_again(tmp_path: Path) -> None:
    """The reason comes from memory, across restarts."""
    bad = write(tmp_path / "bad", bytes(ElfWriter().text().note()))
    for _ in range(2):
        async with service(tmp_path) as made:
            with (
                pytest.raises(SymbolFileError, match="refused before")
                if made.intake.store.refusal(_sha256(bad))
                else pytest.raises(SymbolFileError, match="no symbol table")
            ):
                await made.upload(bad, name="bad", force=True)


async def test_absence_is_remembered_and_asked_again_by_the_rules(tmp_path: Path) -> None:
    """MISSING_RETRY step by step; another node is asked at once; what is named well is never looked for again."""
    async with service(tmp_path) as made:
        now = 1000.0
        made.fetcher.clock = lambda: now
        for step in [*MISSING_RETRY, MISSING_RETRY[-1]]:
            await wanted(made, FILE)
            assert made.fetcher.attempts[BUILD].again == now + step
            assert not made.fetcher.want(FILE, "web-1")
            now += step
        await wanted(made, FILE)
        for number in range(2, MAX_NODES + 1):
            assert made.fetcher.want(FILE, f"web-{number}")
            await made.fetcher.idle()
        assert not made.fetcher.want(FILE, "one-too-many")
        poor = write(tmp_path / "app", simple_elf([Sym(name="f", value=0x1000, size=16)]))
        await made.upload(poor, name="app")
        now = 1e9
        await wanted(made, FILE)
        assert made.fetcher.attempts[BUILD].again == now + POOR_RETRY
        assert len(AWAY_RETRY) > 1


async def test_a_restart_does_not_ask_again_what_was_found_lately(tmp_path: Path) -> None:
    """A poor table is looked for better ones a day after it came, not at each start."""
    poor = write(tmp_path / "app", simple_elf([Sym(name="f", value=0x1000, size=16)]))
    async with service(tmp_path) as made:
        await made.upload(poor, name="app", force=True)
    async with service(tmp_path) as made:
        assert not made.fetcher.want(FILE, "web-1")
        assert made.fetcher.learn(f"{BUILD}.{made.list()[0].kept.content[:16]}") is None
        assert not made.fetcher.want(FILE, "web-1")
        assert made.fetcher.learn(f"{BUILD}.{'a' * 16}") == BUILD
        assert made.fetcher.want(FILE, "web-1")
        await made.fetcher.idle()
        made.fetcher.attempts.clear()
        added = made.list()[0].kept.added
        made.fetcher.wall = lambda: added + POOR_RETRY
        assert made.fetcher.want(FILE, "web-1")


async def test_the_queue_is_bounded_and_coalesces(tmp_path: Path) -> None:
    """A build is in it once, with the nodes that have it; what does not fit is counted and wanted again later."""
    made = SymbolService(SymbolConfig(folder=tmp_path / "s"))
    full = counted("symbol_searches", "outcome", "queue_full")
    for number in range(MAX_QUEUE + 3):
        mapping = replace(FILE, build_id=BuildId(number.to_bytes(20, "big")))
        assert made.fetcher.want(mapping, "a") is (number < MAX_QUEUE)
        assert not made.fetcher.want(mapping, "b")
    assert counted("symbol_searches", "outcome", "queue_full") - full == 6
    assert made.fetcher.waiting() == MAX_QUEUE
    assert not made.fetcher.want(Mapping(MappingKind.JIT), "a")


async def test_a_kernel_from_elf_counts_from_its_text(tmp_path: Path) -> None:
    """Addresses of a kernel mapping count from `_stext`; a vmlinux has absolute ones."""
    base = 0xFFFFFFFF81000000
    writer = ElfWriter(segments=[Seg(offset=0x1000, vaddr=base, filesz=0x1000)], type=2).text(addr=base).note()
    writer.symbols([Sym(name="_stext", value=base + 0x100), Sym(name="schedule", value=base + 0x200, size=64)])
    async with service(tmp_path) as made:
        await made.upload(write(tmp_path / "vmlinux", bytes(writer)), name="vmlinux", force=True)
        kernel = Mapping(MappingKind.KERNEL, BUILD, "[kernel]")
        assert names(made, kernel, 0x104, 0) == [["schedule"], ["_stext"]]
        module = Mapping(MappingKind.MODULE, BUILD, "ext4")
        assert names(made, module, 0x104) == [[]]


async def test_an_older_parsers_tables_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the file that is kept, when the service starts."""
    upload = write(tmp_path / "app", simple_elf([Sym(name="f", value=0x1000, size=16)]))
    async with service(tmp_path) as made:
        await made.upload(upload, name="app", force=True)
    for module in ("store", "intake"):
        monkeypatch.setattr(f"aggregator.symbols.{module}.PARSER_VERSION", 99)
    async with service(tmp_path) as made:
        for _ in range(200):
            if not made.store.outdated():
                break
            await asyncio.sleep(0.05)
        assert [record.kept.parser for record in made.list()] == [99]
        assert names(made, FILE, 0x1004) == [["f"]]


async def test_a_search_that_breaks_ends_what_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug of ours does not leave an aggregator that finds no symbols any more and says nothing."""

    async def broken(self: object, nodes: list[str]) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr("aggregator.symbols.hunt.Hunt.file", broken)
    with pytest.raises(ExceptionGroup) as caught:
        async with service(tmp_path) as made:
            made.want(FILE, "web-1")
            await asyncio.sleep(10)
    assert caught.group_contains(AssertionError, match="a bug")


async def test_counters_tell_what_happened(tmp_path: Path) -> None:
    """Looked up, taken in, searched."""
    expected = {
        ("symbol_addresses", "result", "without_table"): 1,
        ("symbol_addresses", "result", "named"): 1,
        ("symbol_addresses", "result", "unnamed"): 1,
        ("symbol_files", "outcome", "taken"): 1,
        ("symbol_searches", "outcome", "missing"): 1,
    }
    before = {key: counted(*key) for key in expected}
    async with service(tmp_path) as made:
        names(made, FILE, 0x1004)
        await wanted(made, FILE)
        await made.upload(write(tmp_path / "app", simple_elf([Sym(name="f", value=0x1000, size=16)])), name="app")
        names(made, FILE, 0x1004, 0x1FFF)
        assert {key: counted(*key) - before[key] for key in expected} == expected
        assert len(made.list()) == 1


def test_segments_convert_each_offset_once() -> None:
    """Several segments, ends exclusive, no overflow at the end of the address space."""
    segments = (Segment(0x1000, 0x401000, 0x100), Segment(0x3000, 0x7000, 0x10), Segment(2**64 - 16, 0, 16))
    offsets = np.array([0xFFF, 0x1000, 0x10FF, 0x1100, 0x3001, 2**64 - 1], np.uint64)
    lost = 2**64 - 1
    assert in_segments(segments, offsets).tolist() == [lost, 0x401000, 0x4010FF, lost, 0x7001, 15]


def test_errors_of_the_system_are_faults_too() -> None:
    """A full disk is told from the rest."""
    assert hunting.as_fault(OSError(28, "No space left on device")).fault is Fault.DISK
    assert hunting.as_fault(OSError(5, "Input/output error")).fault is Fault.UNREACHABLE


def test_real_programs_have_segments_that_their_symbols_lie_in(c_program: Path) -> None:
    """The ground of the tests above: readelf and nm agree on where code is."""
    mapping = mapping_of(c_program)
    assert len(mapping.segments) == 1
    assert subprocess.run([c_program], capture_output=True, check=True).stdout


def _sha256(path: Path) -> str:
    return run("sha256sum", str(path)).split()[0]


def test_ranks_ascend_with_knowledge() -> None:
    """Stored as numbers: the order must not change."""
    assert [rank.value for rank in (Rank.DYNSYM, Rank.KALLSYMS, Rank.SYMTAB, Rank.DWARF, Rank.GO)] == [1, 2, 3, 4, 5]
    by_worth = sorted(Rank, key=lambda rank: rank.worth)
    assert by_worth == [Rank.DYNSYM, Rank.KALLSYMS, Rank.SYMTAB, Rank.GO, Rank.DWARF]
