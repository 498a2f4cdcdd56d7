"""Python's frames: which processes run CPython, where its state lies, what its code objects are called.

    build      ELF file -> version, where its symbols are
    layouts    version -> offsets in the interpreter's structures; debugoffsets: from the file itself, 3.13 on
    dynamic    symbols that a file exports
    memory     reads another process
    code       address of a code object -> name, file, table of lines
    lines      table of lines, offset of an instruction -> line

The kernel program (bpf/python.h) follows frames and reports code objects by address; nothing here is asked while a
process is interrupted.
"""
