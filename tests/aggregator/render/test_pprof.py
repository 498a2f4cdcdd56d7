"""pprof: read back with Go's own tool, and field by field."""

import gzip
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aggregator.profile import Profile
from aggregator.render import pprof
from aggregator.render import pprof_pb2 as pb
from fleetflame.buildid import BuildId
from fleetflame.model import Mapping, MappingKind, Segment
from tests.aggregator.profiles import APP, KERNEL, Row, profile
from tests.aggregator.render import golden
from tests.aggregator.render.samples import every_kind, hostile

needs_go = pytest.mark.skipif(not shutil.which("go"), reason="no `go` to compare with (apt-get install golang-go)")


def go_pprof(tmp_path: Path, made: Profile, *options: str) -> str:
    """What `go tool pprof` prints of a profile."""
    path = tmp_path / "profile.pb.gz"
    path.write_bytes(pprof.render(made))
    command = ["go", "tool", "pprof", "-symbolize=none", *options, str(path)]
    environment = {"PATH": "/usr/bin:/bin:/usr/local/go/bin", "HOME": str(tmp_path), "PPROF_TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_go
def test_go_reads_what_we_wrote(tmp_path: Path) -> None:
    """Samples, labels, lines, mappings, build IDs and comments, as Go's tool sees them."""
    text = go_pprof(tmp_path, every_kind(), "-raw")
    # Later versions of the tool print columns too.
    golden.check("every_kind.pprof.txt", re.sub(r"(:\d+)(?::\d+)? s=\d+", r"\1", text).encode())


@needs_go
@pytest.mark.parametrize(("index", "total"), [("samples", "100"), ("cpu", "1000ms")])
def test_go_agrees_on_totals(tmp_path: Path, index: str, total: str) -> None:
    """Flat and cumulative numbers are those of our own table."""
    text = go_pprof(tmp_path, every_kind(), "-top", f"-sample_index={index}", "-nodecount=100")
    _, *lines = text[text.index("flat%") :].splitlines()
    rows = {line.split(None, 5)[5]: line.split()[1] for line in lines}
    assert rows["square (inline)"] == "66.00%"
    assert rows["copy_page"] == "20.00%"
    assert re.search(rf"Total samples = {total}\b", text)


@needs_go
def test_go_reads_hostile_and_empty_profiles(tmp_path: Path) -> None:
    """Names with markup and controls; no samples at all."""
    assert "60" in go_pprof(tmp_path, hostile(), "-top", "-sample_index=samples")
    assert "Samples:" in go_pprof(tmp_path, profile([]), "-raw")


def test_equal_profiles_are_equal_files() -> None:
    """No time stamp, no order of chance."""
    data = pprof.render(every_kind())
    assert data == pprof.render(every_kind())
    assert gzip.decompress(data) == pprof.message(every_kind()).SerializeToString(deterministic=True)


def addresses(mapping: Mapping, *offsets: int) -> list[tuple[int, int, int, int]]:
    """Address of each offset, and start, limit and file offset of its mapping."""
    made = pprof.message(profile([(("c",), [(mapping, offset)], 1) for offset in offsets]))
    by_id = {each.id: each for each in made.mapping}
    found = []
    for location in made.location:
        its = by_id[location.mapping_id]
        found.append((location.address, its.memory_start, its.memory_limit, its.file_offset))
    return found


def test_addresses_lead_back_to_offsets() -> None:
    """address - start + file offset is the offset we had, within [start, limit), whatever the kind of file."""
    build = BuildId(b"\1" * 20)
    pie = Mapping(
        MappingKind.FILE, build, "/bin/pie", (Segment(0x1040, 0x2040, 0x5000), Segment(0x9000, 0xB000, 0x100))
    )
    fixed = Mapping(MappingKind.FILE, build, "/bin/fixed", (Segment(0x1000, 0x401000, 0x5000),))
    bare = Mapping(MappingKind.FILE, build, "/bin/bare")
    for mapping, offsets in [(pie, (0x1050, 0x9010)), (fixed, (0x1234,)), (bare, (0x77123, 0x99)), (pie, (0x40000,))]:
        for offset, place in zip(sorted(offsets), addresses(mapping, *offsets), strict=True):
            address, start, limit, file_offset = place
            assert address - start + file_offset == offset
            assert start <= address < limit
    assert addresses(fixed, 0x1234)[0][:2] == (0x401234, 0x401000)
    assert len({start for _, start, _, _ in addresses(pie, 0x1050, 0x9010)}) == 2


def test_the_main_program_has_most_samples() -> None:
    """pprof calls a profile after its first mapping."""
    other = Mapping(MappingKind.FILE, BuildId(b"\2" * 20), "/bin/busy")
    made = pprof.message(profile([(("c",), [(APP, 1)], 1), (("c",), [(other, 1)], 9)]))
    assert made.string_table[made.mapping[0].filename] == "/bin/busy"


def test_the_main_program_is_no_library(tmp_path: Path) -> None:
    """Whatever it spends its time in, and although its libraries are below it, where a thread begins."""
    libc = Mapping(MappingKind.FILE, BuildId(b"\3" * 20), "/usr/lib/libc.so.6")
    plugin = Mapping(MappingKind.FILE, BuildId(b"\4" * 20), "/opt/plugin.so")
    rows: list[Row] = [
        (("c",), [(libc, 1), (APP, 1), (plugin, 1), (KERNEL, 5)], 90),
        (("c",), [(libc, 1), (plugin, 2)], 9),
        (("other",), [(libc, 1), (Mapping(MappingKind.FILE, None, "/bin/rare"), 1)], 3),
    ]
    made = pprof.message(profile(rows))
    names = [made.string_table[mapping.filename] for mapping in made.mapping]
    assert names[:4] == [APP.path, "/bin/rare", libc.path, plugin.path]
    if shutil.which("go"):
        assert "File: app\n" in go_pprof(tmp_path, profile(rows), "-top")


def test_only_locations_in_use_are_written() -> None:
    """Without kernel frames nothing of the kernel is left."""
    made = pprof.message(profile([(("c",), [(APP, 1)], 1)], no_kernel=True))
    assert len(made.location) == len(made.mapping) == 1


def test_generated_code_is_that_of_the_source(tmp_path: Path) -> None:
    """`make proto` would change nothing."""
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root}", f"--python_out={tmp_path}"]
    command += [f"--pyi_out={tmp_path}", "aggregator/render/pprof.proto"]
    subprocess.run(command, check=True, cwd=root, timeout=60)
    for name in ("pprof_pb2.py", "pprof_pb2.pyi"):
        assert (tmp_path / "aggregator/render" / name).read_bytes() == (root / "aggregator/render" / name).read_bytes()
    assert pb.Profile.DESCRIPTOR.full_name == "fleetflame.pprof.Profile"
