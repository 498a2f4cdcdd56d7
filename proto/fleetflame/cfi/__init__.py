"""Call frame information: ELF bytes -> compact unwind tables. Imported by both sides; opens nothing."""

from fleetflame.cfi.codec import decode, encode
from fleetflame.cfi.compile import compile_table
from fleetflame.cfi.faults import CfaError, CfaFault, Dropped
from fleetflame.cfi.rules import RULE_DTYPE, BpKind, CfaKind, RuleFlag
from fleetflame.cfi.table import UnwindTable

__all__ = [
    "RULE_DTYPE",
    "BpKind",
    "CfaError",
    "CfaFault",
    "CfaKind",
    "Dropped",
    "RuleFlag",
    "UnwindTable",
    "compile_table",
    "decode",
    "encode",
]
