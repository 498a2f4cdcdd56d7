"""What can be wrong with unwind information: with a whole file (an error), or with some rows of it (counted)."""

from enum import StrEnum

from fleetflame.errors import FleetflameError


class CfaFault(StrEnum):
    """Why there is no table. One counter each."""

    NOT_ELF = "not_elf"
    UNSUPPORTED = "unsupported_file"
    """32 bit, big-endian, relocatable, or a machine that is not x86-64."""
    TRUNCATED = "truncated"
    STRUCTURE = "bad_structure"
    ABSENT = "no_unwind_information"
    COMPRESSION = "bad_compression"
    TOO_LARGE = "too_large"
    VERSION = "unknown_version"
    """An encoded table of another version than ours."""


class CfaError(FleetflameError):
    """No table can be had from these bytes: `reason` is what is counted, the text says what was found."""

    def __init__(self, reason: CfaFault, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class Dropped(StrEnum):
    """Why a row has no rule, or a rule without rbp. Keys of `UnwindTable.dropped`."""

    CFA_EXPRESSION = "cfa_expression"
    """The CFA is an expression of a form that no kind of rule has."""
    CFA_REGISTER = "cfa_register"
    """The CFA lies at a register that is not a general one, or no CFA was defined."""
    RETURN_ADDRESS = "return_address"
    """It is not at CFA - 8, or the CIE names another column for it."""
    OFFSET_RANGE = "offset_range"
    """An offset of the CFA does not fit into its field."""
    RBP_RULE = "rbp_rule"
    """rbp is in a register, computed, or at an offset that does not fit. The row keeps its CFA, rbp is UNDEFINED."""
    CIE = "bad_cie"
    """Functions of a CIE that is not there or not understood: nobody knows where they are; not in the table."""
    POINTER = "bad_pointer"
    """An address in an encoding that cannot be resolved: the function is not known, and not in the table."""
    INSTRUCTIONS = "bad_instructions"
    """Unknown opcode, operand beyond the end, states nested too deep: one row for the function."""
    OUTSIDE = "outside_code"
    """Functions outside the executable segments (discarded by the linker, relocated at run time): not in the table."""
