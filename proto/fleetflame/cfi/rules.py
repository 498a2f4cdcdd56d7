"""How a caller's registers are found from its callee's: kinds of rule and their layout, shared with the kernel side.

A rule says where a frame's CFA (canonical frame address, the caller's rsp after the return) is and where the caller's
rbp was saved. The return address always lies at CFA - 8 but for STOP and SIGNAL; what does not fit is UNSUPPORTED.

    offset  0     1    2     3       4        8        10
            cfa   bp   reg   flags   a s32    b s16    c s16     12 bytes, little-endian

| cfa         | CFA                                     | return address  |
| ----------- | --------------------------------------- | --------------- |
| GAP         | nothing is known of these addresses     |                 |
| STOP        | outermost frame                         | none            |
| SP          | rsp + a                                 | *(CFA - 8)      |
| BP          | rbp + a                                 | *(CFA - 8)      |
| REGISTER    | register `reg` + a                      | *(CFA - 8)      |
| PLT         | rsp + 8 + 8 * ((rip & 15) >= a)         | *(CFA - 8)      |
| DEREF_SP    | *(rsp + a) + c                          | *(CFA - 8)      |
| DEREF_BP    | *(rbp + a) + c                          | *(CFA - 8)      |
| SIGNAL      | rsp of the ucontext_t at rsp + a        | its rip         |
| UNSUPPORTED | a function whose rule does not fit here |                 |

Fields that a kind does not name are 0, so that equal rules are equal bytes. Registers have their DWARF numbers (System
V psABI for x86-64, figure 3.36): 6 rbp, 7 rsp, 16 the return address.
"""

from enum import IntEnum, IntFlag

import numpy as np

RULE_BYTES = 12
RULE_DTYPE = np.dtype(
    [("cfa", "u1"), ("bp", "u1"), ("reg", "u1"), ("flags", "u1"), ("a", "<i4"), ("b", "<i2"), ("c", "<i2")]
)
"""One rule. `bpf/unwind.h` has the same as a struct."""

RBP, RSP, RIP = 6, 7, 16
REGISTERS = 16
"""General registers: what CfaKind.REGISTER may name is below."""


class CfaKind(IntEnum):
    """How the CFA is found: the module's table."""

    GAP = 0
    STOP = 1
    SP = 2
    BP = 3
    REGISTER = 4
    PLT = 5
    DEREF_SP = 6
    DEREF_BP = 7
    SIGNAL = 8
    UNSUPPORTED = 9


class BpKind(IntEnum):
    """How the caller's rbp is found. SIGNAL has it in the ucontext_t, whatever is said here (SAME)."""

    SAME = 0
    """rbp was not touched."""
    AT_CFA = 1
    """*(CFA + b)"""
    AT_BP = 2
    """*(rbp + b), rbp being the callee's"""
    UNDEFINED = 3
    """It is lost, or its rule does not fit: a caller whose CFA needs it cannot be unwound, others can."""
    AT_SP = 4
    """*(rsp + b), rsp being the callee's"""


class RuleFlag(IntFlag):
    """Bits of `flags`."""

    SIGNAL_FRAME = 1
    """The CIE has augmentation S: the caller was interrupted, it did not call. Look it up at its very address."""


# Registers in struct ucontext_t (Linux, asm-generic/ucontext.h and arch/x86/include/uapi/asm/sigcontext.h): uc_flags
# u64, uc_link u64, uc_stack 24 bytes, then r8 .. r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, 8 bytes each.
UCONTEXT_RBP = 120
UCONTEXT_RSP = 160
UCONTEXT_RIP = 168
