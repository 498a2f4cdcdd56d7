"""Programs to be profiled, compiled where they are needed. All keep frame pointers: other unwinding has other tests.

Not optimized, because gcc leaves the frame out of a small leaf function whatever it is told otherwise, and then the
caller is missing from the stack.
"""

import subprocess
from pathlib import Path

CFLAGS = ("-O0", "-fno-omit-frame-pointer")

# Two functions that share the CPU 70 to 30, alternating every few hundred microseconds so that no sampling clock beats
# with them. `seconds` is CPU time, so that a loaded machine changes nothing.
SEVENTY_THIRTY = r"""
#include <stdlib.h>
#include <time.h>
static volatile unsigned long sink;
__attribute__((noinline)) static void spin(long n) { for (long i = 0; i < n; i++) sink += i; }
__attribute__((noinline)) void hot_seventy(long n) { spin(7 * n); sink++; }
__attribute__((noinline)) void warm_thirty(long n) { spin(3 * n); sink++; }
static double used(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}
int main(int argc, char **argv)
{
	double seconds = atof(argv[1]);
	while (used() < seconds) { hot_seventy(20000); warm_thirty(20000); }
	return 0;
}
"""

# Lives 50 ms of CPU time.
SHORT = r"""
#include <time.h>
static volatile unsigned long sink;
__attribute__((noinline)) void brief_work(void) { for (long i = 0; i < 20000; i++) sink += i; }
int main(void)
{
	struct timespec t;
	do { brief_work(); clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); } while (t.tv_nsec < 50000000 && !t.tv_sec);
	return 0;
}
"""

# Spends its time in the kernel: reads zeroes in large pieces. Calls it by hand, since libc's `read` has no frame.
SYSCALLS = r"""
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
static char buffer[1 << 20];
__attribute__((noinline)) void read_zeroes(long fd)
{
	long got = 0; /* SYS_read */
	__asm__ volatile("syscall" : "+a"(got) : "D"(fd), "S"(buffer), "d"(sizeof(buffer)) : "rcx", "r11", "memory");
	if (got < 0) exit(1);
}
int main(int argc, char **argv)
{
	int fd = open("/dev/zero", O_RDONLY);
	time_t end = time(0) + atoi(argv[1]);
	while (time(0) < end) read_zeroes(fd);
	return 0;
}
"""

# Ten calls deep, to be compiled as distributions do: optimized, without frame pointers.
NESTED = r"""
#include <stdlib.h>
#include <time.h>
static volatile unsigned long sink;
__attribute__((noinline)) void innermost(long n) { for (long i = 0; i < n; i++) sink += i; }
__attribute__((noinline)) int nested(int depth, long n)
{
	if (depth) return nested(depth - 1, n) + 1;
	innermost(n);
	return sink & 1;
}
int main(int argc, char **argv)
{
	double seconds = atof(argv[1]);
	int kept = 0;
	while ((double)clock() / CLOCKS_PER_SEC < seconds) kept += nested(8, 20000);
	return kept == -1;
}
"""

# An inlined function, for debug information to name.
INLINED = r"""
#include <stdlib.h>
#include <time.h>
static volatile unsigned long sink;
static inline __attribute__((always_inline)) void inlined_step(long i) { sink += i * i; }
__attribute__((noinline)) void outer_loop(long n)
{
	for (long i = 0; i < n; i++)
		inlined_step(i);
}
int main(int argc, char **argv)
{
	time_t end = time(0) + atoi(argv[1]);
	while (time(0) < end) outer_loop(100000);
	return 0;
}
"""


def compile_c(source: str, binary: Path, *flags: str) -> Path:
    """`binary`, built from the text of one C file."""
    path = binary.with_suffix(".c")
    path.write_text(source)
    subprocess.run(["gcc", *CFLAGS, *flags, "-o", binary, path], check=True)
    return binary
