"""A proc folder made of plain files: processes that begin, exec, map and end exactly when a test says so."""

import shutil
from pathlib import Path

from tests.support.elf import PT_NOTE, ElfWriter, Sec, Seg, gnu_note

TEXT = 0x401000
"""Where a fake program's code is mapped; file offset 0x1000."""


def write_elf(path: Path, build_id: bytes | None) -> Path:
    """`path`, an ELF file with that build ID and one executable segment: offset 0x1000, address 0x401000."""
    note = gnu_note(build_id) if build_id else b""
    segments = [
        Seg(type=PT_NOTE, flags=4, offset=64 + 2 * 56, filesz=len(note)),
        Seg(flags=5, offset=0x1000, vaddr=TEXT, filesz=0x1000),
    ]
    data = bytes(ElfWriter(sections=[Sec(name=".note", data=note, align=1)], segments=segments))
    path.write_bytes(data.ljust(0x2000, b"\0"))
    return path


class FakeProc:
    """Processes below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def start(self, pid: int, exe: Path, *, comm: str = "", start: int = 100, cgroup: str = "0::/a\n") -> None:
        """A process, or what an exec made of it. Replaces what was there."""
        self.end(pid)
        process = self.folder / str(pid)
        (process / "ns").mkdir(parents=True)
        self.rename(pid, comm or exe.name, start=start)
        (process / "cgroup").write_text(cgroup)
        (process / "status").write_text("Name:\tx\nUid:\t1000\t1000\t1000\t1000\n")
        (process / "cmdline").write_bytes(f"{exe}\0--flag\0".encode())
        (process / "exe").symlink_to(exe)
        (process / "root").symlink_to("/")
        self.map(pid, exe)

    def rename(self, pid: int, comm: str, *, start: int = 100) -> None:
        """Sets the process's comm."""
        stat = f"{pid} ({comm}) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 0"
        (self.folder / str(pid) / "stat").write_text(stat)

    def map(self, pid: int, *files: Path) -> None:
        """Maps the code of these files at TEXT, TEXT + 0x100000, ..., and nothing else."""
        lines = [
            f"{TEXT + n * 0x100000:08x}-{TEXT + n * 0x100000 + 0x1000:08x} r-xp 00001000 00:00 {n + 1} {path}\n"
            for n, path in enumerate(files)
        ]
        (self.folder / str(pid) / "maps").write_text("".join(lines))

    def end(self, pid: int) -> None:
        """The process is gone."""
        shutil.rmtree(self.folder / str(pid), ignore_errors=True)
