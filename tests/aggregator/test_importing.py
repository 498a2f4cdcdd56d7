"""Imports: what goes in comes out again, whatever wrote it; bad files are refused with a reason."""

import contextlib
import gzip
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator import pprofreader
from aggregator.fold import fold
from aggregator.foldedtext import Fault
from aggregator.importing import DEFAULT_PERIOD_NS, ImportOptions, import_profile
from aggregator.profile import Profile
from aggregator.render import pprof
from aggregator.render import pprof_pb2 as pb
from aggregator.render.folded import render
from fleetflame.errors import UsageError
from fleetflame.model import MAX_FRAMES, Batch, FrameMiss, MappingKind, NamedFrame
from tests.aggregator.profiles import Names, Row, profile
from tests.aggregator.render.samples import NAMES, every_kind, hostile

NOW = 1_700_000_000_000_000_000


def options(**values: object) -> ImportOptions:
    """Options with a time."""
    return ImportOptions(**{"time_ns": NOW, **values})  # type: ignore[arg-type]


def stored(batches: Sequence[Batch], *, names: Names | None = None, by: tuple[str, ...] = ("comm",)) -> Profile:
    """The profile that a store gives back for these batches."""
    rows: list[Row] = []
    named: dict[int, NamedFrame] = {}
    for batch in batches:
        table = batch.stacks
        for series, number, count in zip(batch.sample_series, batch.sample_number, batch.sample_count, strict=True):
            labels = {**dict(batch.series[series]), "node": batch.node}
            frames = []
            for at in range(table.offsets[number], table.offsets[number + 1]):
                mapping, address = batch.mappings[table.mapping[at]], int(table.address[at])
                if mapping.kind is MappingKind.IMPORTED:
                    frame = batch.named[address]
                    address = hash(frame) & (1 << 63) - 1
                    named[address] = frame
                frames.append((mapping, address))
            rows.append((tuple(labels.get(label, "") for label in by), frames, int(count)))
    return profile(rows, names, named, by=by)


def round_trip(data: bytes, **values: object) -> bytes:
    """The folded text of what an import stored."""
    return render(fold(stored(import_profile(data, options(**values)).batches)))


def test_our_text_comes_back_byte_for_byte() -> None:
    """Export, import, export: frames of every kind, hostile names, placeholders."""
    for made in (every_kind(by=("comm",)), hostile()):
        text = render(fold(made))
        assert round_trip(text) == text


names = st.sampled_from(
    ["main", "a b", "x_[k]", "[lib+0x1]", "é", "y_[i]", "[truncated: depth limit]", "f(int)", "_[p]"],
)


@given(st.lists(st.tuples(st.lists(names, min_size=1, max_size=5), st.integers(1, 99)), min_size=1, max_size=12))
def test_any_text_comes_back(rows: list[tuple[list[str], int]]) -> None:
    """Samples per stack are those of a plain count, and the round trip is exact."""
    counted: Counter[str] = Counter()
    for stack, count in rows:
        counted[";".join(stack)] += count
    text = "".join(f"{stack} {count}\n" for stack, count in sorted(counted.items())).encode()
    again = round_trip("".join(f"{';'.join(stack)} {count}\n" for stack, count in rows).encode())
    assert sorted(again.splitlines()) == sorted(text.splitlines())


def test_text_of_perf_is_read_as_ours() -> None:
    """`stackcollapse-perf.pl --kernel` output, as it comes: process first, suffixes, unknown frames."""
    text = b"bash;[unknown];__libc_start_main;main;execute_command 12\nswapper;start_kernel_[k];do_idle_[k] 7\n"
    imported = import_profile(text, options(labels={"service": "ci", "node": "host-1"}))
    (batch,) = imported.batches
    assert (imported.samples, imported.stacks, imported.bad) == (19, 2, 0)
    assert batch.node == "host-1"
    assert batch.series == ((("comm", "bash"), ("service", "ci")), (("comm", "swapper"), ("service", "ci")))
    assert batch.period_ns == DEFAULT_PERIOD_NS
    assert batch.ledger.taken == int(batch.sample_count.sum()) == 19
    assert round_trip(text) == text


def test_rows_are_sorted_and_unique() -> None:
    """A batch keeps its promise: each (series, number) once, in order; stacks once, shared by processes."""
    (batch,) = import_profile(b"b;f 1\na;f 2\na;g 4\nb;f 8\n", options()).batches
    rows = list(zip(batch.sample_series.tolist(), batch.sample_number.tolist(), strict=True))
    assert rows == sorted(set(rows))
    assert len(batch.stacks) == 2
    assert batch.sample_count.tolist() == [2, 4, 9]


def test_bad_lines_are_told_and_the_rest_is_kept() -> None:
    """Numbers of the lines that could not be read; an error only if none could."""
    imported = import_profile(b"a;b 1\nrubbish\n", options())
    assert imported.faults == (Fault(2, "no count after the stack"),)
    assert (imported.samples, imported.lines, imported.bad) == (1, 2, 1)
    with pytest.raises(UsageError, match="no line could be read: line 1: no count"):
        import_profile(b"rubbish\n", options())
    with pytest.raises(UsageError, match="holds no samples"):
        import_profile(b"\n", options())


def test_a_label_for_comm_keeps_the_first_frame() -> None:
    """Who names the process has text without one: its first frame is still a frame."""
    (batch,) = import_profile(b"main;f 3\n", options(labels={"comm": "app"})).batches
    assert batch.series == ((("comm", "app"),),)
    assert render(fold(stored([batch]))) == b"app;main;f 3\n"


def test_the_same_import_has_the_same_identity() -> None:
    """Content, labels and time make a batch the same; another of these, another."""
    one, again = (import_profile(b"a;b 1\n", options()).batches[0] for _ in range(2))
    assert (one.epoch, one.sequence) == (again.epoch, again.sequence)
    for other in (options(labels={"x": "y"}), options(time_ns=1), options(type="wall")):
        assert import_profile(b"a;b 1\n", other).batches[0].epoch != one.epoch


def test_pprof_comes_back_with_names_and_addresses() -> None:
    """Ours, exported and imported: the same folded text, kernel and inlined frames told, nodes apart."""
    made = every_kind()
    batches = import_profile(pprof.render(made), options()).batches
    assert [batch.node for batch in batches] == ["node-a", "node-b"]
    assert {batch.period_ns for batch in batches} == {10_000_000}
    assert {batch.window_start_ns for batch in batches} == {made.origin.from_ns}
    back = stored(batches, by=("comm", "node"))
    assert render(fold(back)) == render(fold(made))
    assert pprof.message(back).sample_type == pprof.message(made).sample_type


def test_addresses_without_names_wait_for_symbols() -> None:
    """A frame that had no name is still (build ID, offset): symbols that come later name it."""
    batches = import_profile(pprof.render(every_kind()), options()).batches
    libc = next(m for batch in batches for m in batch.mappings if m.path == "/usr/lib/libc.so.6")
    named: Names = {**NAMES, (libc, 0x28F3): [("__libc_start_call_main", "", 0)]}
    text = render(fold(stored(batches, names=named))).decode()
    assert "app;main;__libc_start_call_main;vfs_read_[k];copy_page_[k] 20\n" in text


def test_imported_text_survives_pprof() -> None:
    """Text to store to pprof to store to text."""
    text = render(fold(every_kind(by=("comm",))))
    first = stored(import_profile(text, options()).batches)
    assert round_trip(pprof.render(first)) == text


def test_labels_of_the_importer_win() -> None:
    """The file's node and comm give way."""
    batches = import_profile(pprof.render(every_kind()), options(labels={"node": "n", "comm": "c"})).batches
    assert [(batch.node, batch.series) for batch in batches] == [("n", ((("comm", "c"),),))]


def test_time_of_the_importer_wins_if_given() -> None:
    """Else the file's time holds, and the importer's is for files without."""
    data = pprof.render(every_kind())
    assert import_profile(data, options(time_ns=5, time_given=True)).batches[0].window_start_ns == 5
    kept = import_profile(data, options(time_ns=5)).batches[0]
    origin = every_kind().origin
    assert (kept.window_start_ns, kept.window_ns) == (origin.from_ns, origin.until_ns - origin.from_ns)
    assert origin.from_ns > 5
    assert import_profile(b"a 1\n", options(time_ns=5)).batches[0].window_start_ns == 5


def message(**fields: object) -> pb.Profile:
    """A small valid profile: one sample of one location, 3 samples of 10 ms."""
    made = pb.Profile(string_table=["", "samples", "count", "cpu", "nanoseconds", "f", "file.c", "/bin/x"])
    made.sample_type.extend([pb.ValueType(type=1, unit=2), pb.ValueType(type=3, unit=4)])
    made.period_type.CopyFrom(pb.ValueType(type=3, unit=4))
    made.period = 10_000_000
    made.mapping.add(id=1, memory_start=0x1000, memory_limit=0x9000, file_offset=0x100, filename=7)
    made.function.add(id=4, name=5, filename=6)
    made.location.add(id=9, mapping_id=1, address=0x1010).line.add(function_id=4, line=12)
    made.sample.add(location_id=[9], value=[3, 30_000_000])
    made.MergeFrom(pb.Profile(**fields))  # type: ignore[arg-type]
    return made


def folded_of(made: pb.Profile) -> str:
    """The folded text of an imported message."""
    return round_trip(made.SerializeToString()).decode()


def test_foreign_profiles_are_read() -> None:
    """Raw and compressed, with the main program for want of a comm; nameless frames by file and offset."""
    made = message()
    assert folded_of(made) == "x;f 3\n"
    assert round_trip(gzip.compress(made.SerializeToString())).decode() == "x;f 3\n"
    del made.location[0].line[:]
    assert folded_of(made) == "x;[x+0x110] 3\n"


def test_samples_are_found_among_the_values() -> None:
    """Where only time is known, samples are time by period; else the last kind of value is taken."""
    made = message()
    del made.sample_type[0]
    del made.sample[0].value[0]
    assert folded_of(made) == "x;f 3\n"
    made.period = 0
    assert folded_of(made) == "x;f 30000000\n"


@pytest.mark.parametrize(
    ("file", "name", "expected"),
    [
        (b"[kernel.kallsyms]", "vfs_read", "vfs_read_[k]"),
        (b"[nf_tables]", "nft_x", "nft_x_[k]"),
        (b"/lib/modules/6.1/ext4.ko.xz", "ext4_x", "ext4_x_[k]"),
        (b"/tmp/perf-42.map", "Foo", "Foo_[j]"),
        (b"[vdso]", "gettime", "gettime"),
        (b"/bin/x", "f_[k]", "f_[k]"),
    ],
)
def test_mappings_tell_kinds(file: bytes, name: str, expected: str) -> None:
    """By the names that perf and others give them; a suffix that is there stays the only one."""
    made = message()
    made.string_table[7], made.string_table[5] = file.decode(), name
    made.sample[0].label.add(key=3, str=1)
    assert folded_of(made).split(";")[1] == f"{expected} 3\n"


def test_deep_stacks_keep_the_leaf() -> None:
    """Of too many frames the root's are cut, which the stack and the ledger say."""
    made = message()
    made.location.add(id=10, mapping_id=1, address=0x1020)
    made.sample.add(location_id=[9] + [10] * (MAX_FRAMES + 5), value=[2, 0])
    (batch,) = import_profile(made.SerializeToString(), options()).batches
    assert batch.ledger.degraded == {"depth_limit": 2}
    text = render(fold(stored([batch]))).decode().splitlines()
    assert text[0].startswith("x;[truncated: depth limit];[x+0x120];")
    assert text[0].endswith(";f 2")
    assert np.diff(batch.stacks.offsets.astype(int)).max() == MAX_FRAMES
    assert FrameMiss.DEPTH_LIMIT in batch.stacks.address


NAMED_BY_5 = pb.Location(id=2, line=[pb.Line(function_id=5)])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sample": [pb.Sample(location_id=[77], value=[1, 1])]}, "no location 77"),
        ({"sample": [pb.Sample(location_id=[9], value=[1])]}, "without 2 values"),
        ({"sample": [pb.Sample(location_id=[9], value=[-1, 1])]}, "negative"),
        ({"location": [pb.Location(id=2, mapping_id=8)]}, "location 2 is in no mapping"),
        ({"location": [pb.Location(id=2, line=[pb.Line(function_id=8)])]}, "no function 8"),
        ({"function": [pb.Function(id=5, name=99)], "location": [NAMED_BY_5]}, "99"),
        ({"sample": [pb.Sample(location_id=[9], value=[1, 1], label=[pb.Label(key=-3)])]}, "string -3"),
        ({"default_sample_type": 50, "sample_type": [pb.ValueType(type=1, unit=50)]}, "string 50"),
    ],
)
def test_inconsistent_profiles_are_refused(fields: dict[str, object], reason: str) -> None:
    """Each reference is checked before it is followed, and the error says which one."""
    with pytest.raises(UsageError, match=reason):
        import_profile(message(**fields).SerializeToString(), options())


def test_damaged_and_oversized_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Truncated, not gzip after all, no message, a bomb: an error with a reason, soon."""
    data = pprof.render(every_kind())
    for bad in (data[:-20], data[:12] + b"\xff" * 40, b"\x1f\x8b", gzip.compress(b"\xff" * 99), gzip.compress(b"")):
        with pytest.raises(UsageError, match="not a pprof profile"):
            import_profile(bad, options())
    monkeypatch.setattr(pprofreader, "MAX_BYTES", 1 << 20)
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        import_profile(gzip.compress(bytes(50 << 20)), options())


@given(st.binary(max_size=400) | st.binary(max_size=200).map(gzip.compress))
def test_no_bytes_do_anything_else(data: bytes) -> None:
    """Whatever comes in is a profile or a usage error."""
    with contextlib.suppress(UsageError):
        assert import_profile(data, options()).samples > 0


@given(st.data())
def test_no_change_of_a_profile_does_anything_else(data: st.DataObject) -> None:
    """Bytes of a valid profile, changed anywhere, are a profile or a usage error."""
    raw = bytearray(message().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UsageError):
        import_profile(bytes(raw), options(form="pprof"))


def test_labels_must_be_labels() -> None:
    """Names as in Prometheus, values that are there, nodes that can be one."""
    for labels in ({"a-b": "c"}, {"a": ""}, {"": "x"}, {"node": "a b"}):
        with pytest.raises(UsageError):
            options(labels=labels)


def test_imports_of_parts_add_up() -> None:
    """Half and half are the whole."""
    batches = [batch for text in (b"a;b 1\n", b"a;b 2\nc 4\n") for batch in import_profile(text, options()).batches]
    assert render(fold(stored(batches))) == b"a;b 3\nc 4\n"


def test_a_go_profile_is_read() -> None:
    """What Go's own runtime wrote (a recorded file): its samples as `go tool pprof -raw` counts them."""
    recorded = Path(__file__).parents[1] / "data" / "pprof" / "go_cpu.pb.gz"
    imported = import_profile(recorded.read_bytes(), options())
    assert imported.samples == 9 + 9 + 5
    assert round_trip(recorded.read_bytes()).decode() == "spin;runtime.main;main.main;main.spin 23\n"
