/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * One step of unwinding a user stack: registers of a frame -> registers of its caller.
 *
 *     image -> layout: regions of executable memory, ascending     (regions)
 *           -> table of the build that is mapped there             (tables)
 *           -> page of 64 KiB of its code                          (pages)
 *           -> row: from this address on, this rule                (rows, two to an entry)
 *           -> rule: where the caller's registers are              (rules)
 *
 * Layout, tables and rows are arrays that user space fills; what is read here may be half written, or of a table that was
 * just evicted. Nothing that stands in them can make a step loop, fault or take longer: at worst it ends a stack early or
 * finds memory that is no return address, which no mapping admits.
 *
 * The steps themselves are in step.h.
 */
#ifndef FLEETFLAME_UNWIND_H
#define FLEETFLAME_UNWIND_H

/* Executable memory [start, start + length) of a process. Address - bias is the ELF's virtual address. */
struct region {
	u64 start;
	u64 bias;
	u32 length;
	u32 table; /* index in tables; 0: none */
};
SAME(sizeof(struct region), SIZEOF_REGION);

struct table {
	u64 base; /* virtual address of the first page */
	u32 first_page;
	u32 pages; /* 0: not loaded (yet, or any more) */
};
SAME(sizeof(struct table), SIZEOF_TABLE);

/* Rows of 1 << PAGE_BITS bytes of code. The first one begins at the page's own beginning. */
struct page {
	u32 first_row;
	u32 rows;
};
SAME(sizeof(struct page), SIZEOF_PAGE);

/* Rows are u32: low half address within the page, high half number of the rule. Two to an entry of `rows`. */

/* proto/fleetflame/cfi/rules.py has the same numbers. */
enum cfa_kind {
	CFA_GAP,	 /* between functions */
	CFA_STOP,	 /* outermost frame */
	CFA_SP,		 /* rsp + a */
	CFA_BP,		 /* rbp + a */
	CFA_REGISTER,	 /* another register + a */
	CFA_PLT,	 /* rsp + 8, and 8 more from byte a of the entry on */
	CFA_DEREF_SP,	 /* *(rsp + a) + c */
	CFA_DEREF_BP,	 /* *(rbp + a) + c */
	CFA_SIGNAL,	 /* struct ucontext at rsp + a */
	CFA_UNSUPPORTED, /* the compiler could not express it */
};

enum bp_kind { BP_SAME, BP_AT_CFA, BP_AT_BP, BP_UNDEFINED, BP_AT_SP };
#define RULE_SIGNAL_FRAME 1 /* in flags: the caller was interrupted here */

struct rule {
	u8 cfa;
	u8 bp;
	u8 reg;
	u8 flags;
	s32 a;
	s16 b;
	s16 c;
};
SAME(sizeof(struct rule), SIZEOF_RULE);

/* Why a stack ends where it does. */
enum stop {
	STOP_NOT_YET,
	STOP_WHOLE,
	STOP_DEPTH,
	STOP_UNMAPPED,
	STOP_NO_FRAME_POINTER,
	STOP_NO_RULE,	 /* the address lies in no function that the table knows */
	STOP_RULE,	 /* the rule cannot be followed */
	STOP_UNREADABLE, /* the stack's memory could not be read */
	STOP_NO_PROGRESS, /* the caller's frame would not lie above */
};

struct frame {
	u64 ip, sp, bp;
	u64 layout; /* number of the first region << 32 | how many there are */
	u32 region; /* where the last address was found; callers are often next to each other */
	u32 exact;  /* ip is an interrupted instruction, not a return address */
	u32 leaf;   /* `regs` are this frame's */
	u32 by_frame_pointer;
};

#endif
