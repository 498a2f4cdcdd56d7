"""Whether a process is a HotSpot JVM that can be attached to.

To be attached to, a JVM is sent SIGQUIT. Any other SIGQUIT makes it print its threads, and kills most other programs.
So nobody is sent one who does not have libjvm.so mapped as code, a handler for it, and attaching enabled: what the JVM
says of itself in its `hsperfdata` file, or else what its options say. (github.com/openjdk/jdk: src/hotspot/share:
services/attachListener.cpp, runtime/perfMemory.hpp, runtime/arguments.cpp)
"""

import os
import re
import signal
import struct
from enum import StrEnum

from agent.facts import read_small
from agent.openat import OpenMiss, ProcessFiles, read_all
from agent.procmaps import Region, iter_with_file

MAX_OPTIONS = 256 * 1024
"""Bytes of a command line or an environment. A class path has some 10 KiB."""
MAX_PERF_DATA = 64 * 1024
"""Of hsperfdata: 32 KiB unless `-XX:PerfDataMemorySize` says otherwise."""

_LIBRARY = b"/libjvm.so"
_PERF_DATA = re.compile(rb"/hsperfdata_[^/]+/[0-9]+\Z")
_PERF_MAGIC = 0xCAFEC0C0
_CAPABILITIES = b"sun.rt.jvmCapabilities\0"
_SWITCH = re.compile(rb"-XX:([+-])DisableAttachMechanism\b")
_ELSEWHERE = re.compile(rb"(?:\A|[\0 \n])(?:@[^\0 ]|-XX:(?:Flags|VMOptionsFile)=|-XX:\+ReadVMOptionsFile)")
_OPTION_VARIABLES = (b"JDK_JAVA_OPTIONS=", b"JAVA_TOOL_OPTIONS=", b"_JAVA_OPTIONS=")


class Doubt(StrEnum):
    """What speaks against sending SIGQUIT."""

    NOT_HOTSPOT = "not_hotspot"
    NO_HANDLER = "no_handler"
    DISABLED = "attach_disabled"
    UNCERTAIN = "attach_uncertain"


def find_doubt(process: int, files: ProcessFiles, caught: int) -> Doubt | None:
    """None if the process behind its open proc folder can be attached to; `caught` is SigCgt of its status."""
    regions = list(iter_with_file([read_all(process, "maps")]))
    if not any(region.path.endswith(_LIBRARY) and region.executable for region in regions):
        return Doubt.NOT_HOTSPOT
    if not caught >> (signal.SIGQUIT - 1) & 1:
        return Doubt.NO_HANDLER  # -Xrs, or it is only just starting
    data = next((region for region in regions if _PERF_DATA.search(region.path)), None)
    allows = can_attach(_read_perf_data(files, data)) if data else None
    if allows is None:
        return _doubt_of_options(
            read_small(process, "cmdline", MAX_OPTIONS), read_small(process, "environ", MAX_OPTIONS)
        )
    return None if allows else Doubt.DISABLED


def can_attach(perf_data: bytes) -> bool | None:
    """Whether a JVM whose hsperfdata has this content allows it; None if it does not say.

    The first character of the string `sun.rt.jvmCapabilities` is 1 if it does.

        0  magic 0xcafec0c0  4 byte order  24 offset of the first entry  28 their number
        entry: 0 length  4 offset of name  8 elements  12 type, flags, units, variability  16 offset of data
    """
    if len(perf_data) < 32 or struct.unpack_from(">I", perf_data)[0] != _PERF_MAGIC:
        return None
    order = "<" if perf_data[4] == 1 else ">"
    at, count = struct.unpack_from(order + "II", perf_data, 24)
    for _ in range(min(count, len(perf_data) // 20)):
        if at + 20 > len(perf_data):
            return None
        length, name, _elements, _kinds, data = struct.unpack_from(order + "5I", perf_data, at)
        if perf_data[at + name : at + name + len(_CAPABILITIES)] == _CAPABILITIES:
            return {b"1": True, b"0": False}.get(perf_data[at + data : at + data + 1])
        if length < 20:
            return None
        at += length
    return None


def _doubt_of_options(line: bytes, environment: bytes) -> Doubt | None:
    """Without hsperfdata (`-XX:-UsePerfData`, `-XX:+PerfDisableSharedMem`): by what it was started with."""
    said = [word.partition(b"=")[2] for word in environment.split(b"\0") if word.startswith(_OPTION_VARIABLES)]
    text = b"\0".join([line, *said])
    if not line or not environment or max(len(line), len(environment)) >= MAX_OPTIONS or _ELSEWHERE.search(text):
        return Doubt.UNCERTAIN
    return Doubt.DISABLED if b"+" in _SWITCH.findall(text) else None


def _read_perf_data(files: ProcessFiles, region: Region) -> bytes:
    fd = files.open_region(region)
    if isinstance(fd, OpenMiss):
        return b""
    try:
        return os.pread(fd, MAX_PERF_DATA, 0)
    except OSError:
        return b""
    finally:
        os.close(fd)
