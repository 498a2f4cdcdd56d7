"""Unwinding by tables, user space's side: what the kernel's step (bpf/step.h) reads is put there and taken away here.

extents     which parts of an array are free
tables      an unwind table -> rows, pages and rules in the kernel's arrays
layouts     the executable memory of a process image -> regions
compiler    an ELF file -> its table, in a child of bounded memory
unwinding   which builds get a table, in which order, and which give way
"""
