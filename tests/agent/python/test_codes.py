"""Functions are read once, early where the kernel tells of them, and not more of them than there is time for."""

from dataclasses import replace

from agent.image import Image, unknown_image
from agent.python.build import RunningPython
from agent.python.code import Code, CodeMiss
from agent.python.codes import Codes
from agent.snapshot import Snapshot
from tests.agent.python.test_code import Running, running
from tests.support.interpreters import interpreters

EMPTY = Snapshot(table=None, whole=True, fingerprint=0, bytes_read=0, since_ns=0)  # type: ignore[arg-type]


def image_of(child: Running) -> Image:
    image = unknown_image(1 << 22 | child.process.pid, child.process.pid)
    bias = child.code_type - child.build.code_type
    image.snapshot = replace(EMPTY, python=RunningPython(child.build, bias))
    return image


def test_a_function_that_was_met_is_known_when_its_process_is_gone() -> None:
    """Read in the middle of a window; one that nobody told of is missing then."""
    codes = Codes()
    with running(interpreters()[-1]) as child:
        image = image_of(child)
        seen = [(address, child.checksum(address)) for address, *_ in child.codes]
        codes.note(image, seen[0])
        codes.note(None, seen[1])
    found = codes.find(image, seen[0])
    assert isinstance(found, Code) and found.name == child.codes[0][1]
    assert codes.find(image, seen[1]) is CodeMiss.GONE


def test_a_function_is_known_by_address_and_checksum() -> None:
    """The same address with another checksum is another function, or none."""
    codes = Codes()
    with running(interpreters()[-1]) as child:
        address = child.codes[0][0]
        assert codes.find(image_of(child), (address, child.checksum(address) ^ 1)) is CodeMiss.CHANGED
        assert isinstance(codes.find(image_of(child), (address, child.checksum(address))), Code)


def test_reads_of_a_window_and_functions_held_are_bounded() -> None:
    """What was too many is read in the next window; what was used longest ago is forgotten."""
    codes = Codes(max_codes=4, max_reads=2)
    with running(interpreters()[-1]) as child:
        image = image_of(child)
        seen = [(address, child.checksum(address)) for address, *_ in child.codes[:6]]
        first = [codes.find(image, one) for one in seen]
        assert [isinstance(found, Code) for found in first] == [True, True, False, False, False, False]
        assert set(first[2:]) == {CodeMiss.TOO_MANY}
        for _ in range(2):
            codes.end_window()
            assert sum(isinstance(codes.find(image, one), Code) for one in seen[2:]) >= 2
        assert len(codes) == 4


def test_equal_functions_of_two_processes_are_one() -> None:
    """Each worker of a server has its own copy, and so has each process that a test suite starts."""
    codes, found = Codes(), []
    for _ in range(2):
        with running(interpreters()[-1]) as child:
            address = child.codes[0][0]
            found.append(codes.find(image_of(child), (address, child.checksum(address))))
    assert isinstance(found[0], Code)
    assert found[0] is found[1]


def test_an_image_without_an_interpreter_has_no_functions() -> None:
    """Its mappings were forgotten, or it is another program by now."""
    assert Codes().find(unknown_image(1, 1), (0x1000, 1)) is CodeMiss.GONE
