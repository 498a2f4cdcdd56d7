"""Real processes with code in known places, for tests of what their memory is taken for."""

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.support.workloads import compile_c

# Prints the addresses of some of its own functions, then does as it is told, line by line:
#   load PATH    dlopen, prints the address of its `marker`
#   copy         puts copies of the text pages around `marker` into anonymous memory at the same addresses
#   jit          prints the address of anonymous executable memory
SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
__attribute__((section(".other_text"), noinline)) int elsewhere(int x) { return x * 3; }
__attribute__((noinline, aligned(4096))) int marker(int x) { return x * 5; }
__attribute__((noinline, aligned(4096))) int behind(int x) { return x * 7; }
static void copy_text(void)
{
	char *start = (char *)marker;
	size_t size = (char *)behind - start;
	char *copy = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(copy, start, size);
	mprotect(copy, size, PROT_READ | PROT_EXEC);
	mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, start);
}
int main(void)
{
	char line[4096];
	setbuf(stdout, 0);
	printf("main=%p marker=%p elsewhere=%p vdso=%p puts=%p\n", main, marker, elsewhere,
		(char *)getauxval(AT_SYSINFO_EHDR) + 0x100, dlsym(RTLD_DEFAULT, "puts"));
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (!strncmp(line, "load ", 5)) {
			void *library = dlopen(line + 5, RTLD_NOW);
			printf("marker=%p\n", library ? dlsym(library, "marker") : 0);
		} else if (!strcmp(line, "copy")) {
			copy_text();
			printf("sum=%#x\n", marker(1) + elsewhere(1));
		} else if (!strcmp(line, "jit")) {
			printf("jit=%p\n", mmap(0, 8192, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		}
	}
	return 0;
}
"""

LIBRARY = "__attribute__((noinline)) int marker(int x) { return x * 11; }\n"


@dataclass(frozen=True, slots=True)
class Live:
    """A running program and where it said its functions are."""

    pid: int
    said: dict[str, int]
    _in: IO[str]
    _out: IO[str]

    def tell(self, line: str) -> dict[str, int]:
        """What the program answers."""
        self._in.write(line + "\n")
        self._in.flush()
        return _parse(self._out.readline())


def build(folder: Path, name: str, *flags: str, source: str = SOURCE) -> Path:
    """The program, or with `-shared` and LIBRARY a library, compiled with these flags."""
    return compile_c(source, folder / name, "-w", *flags)


@contextlib.contextmanager
def run(argv: Sequence[str | Path], *, pass_fds: Sequence[int] = ()) -> Iterator[Live]:
    """The program, running until the end of the block."""
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=pass_fds) as process:
        assert process.stdin and process.stdout
        try:
            yield Live(process.pid, _parse(process.stdout.readline()), process.stdin, process.stdout)
        finally:
            process.kill()


@contextlib.contextmanager
def proc_folder(pid: int) -> Iterator[int]:
    """A descriptor of the process's proc folder."""
    fd = os.open(f"/proc/{pid}", os.O_PATH)
    try:
        yield fd
    finally:
        os.close(fd)


def readelf_build_id(path: Path) -> str:
    """The build ID that readelf finds, "" if none."""
    shown = subprocess.run(["readelf", "-n", path], capture_output=True, text=True, check=True).stdout
    found = re.search(r"Build ID: (\w+)", shown)
    return found[1] if found else ""


def symbol_offset(path: Path, symbol: str) -> int:
    """The file offset of a function's first byte, from nm and readelf."""
    shown = subprocess.run(["nm", *(["-D"] if ".so" in path.name else []), path], capture_output=True, text=True).stdout
    found = re.search(rf"^(\w+) [tTiW] {symbol}(?:@.*)?$", shown, re.MULTILINE)
    assert found, f"{path} has no {symbol}"
    address = int(found[1], 16)
    shown = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True, check=True).stdout
    for row in re.findall(r"^ +LOAD +(\w+) (\w+) \w+ (\w+)", shown, re.MULTILINE):
        offset, start, size = (int(value, 16) for value in row)
        if start <= address < start + size:
            return address - start + offset
    raise AssertionError(f"{symbol} is in no segment of {path}")


def _parse(line: str) -> dict[str, int]:
    return {name: int(value, 16) for name, value in re.findall(r"(\w+)=(?:0x)?(\w+)", line)}
