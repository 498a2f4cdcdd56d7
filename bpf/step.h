/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * From the registers of one user frame to those of its caller, over the arrays that unwind.h describes.
 *
 * Does not know perf events, samples or counts. Whoever includes it defines ALWAYS_INLINE, OPAQUE, read_user and what
 * stands at an index of an array (region_at ... rule_at), so that it compiles for user space too, where it is tested on
 * recorded registers and stacks.
 */
#ifndef FLEETFLAME_STEP_H
#define FLEETFLAME_STEP_H
#include "unwind.h"

/* Enough halvings for 65,536 rows a page; 1 << REGION_STEPS are the most regions that a layout may have. */
#define ROW_STEPS 17

ALWAYS_INLINE struct region *find_region(struct frame *frame, u64 address)
{
	u32 first = frame->layout >> 32, low = 0, high = (u32)frame->layout, middle, at;
	struct region *region;
	int i;

	at = frame->region;
	region = region_at(at);
	if (region && address - region->start < region->length)
		return region;
	for (i = 0; i <= REGION_STEPS; i++) {
		OPAQUE(i);
		if (low >= high)
			break;
		middle = (low + high) / 2;
		at = first + middle;
		region = region_at(at);
		if (!region)
			return 0;
		if (address < region->start)
			high = middle;
		else
			low = middle + 1;
	}
	at = first + low - 1;
	region = low ? region_at(at) : 0;
	if (!region || address - region->start >= region->length)
		return 0;
	frame->region = at;
	return region;
}

/* The rule for an address within a table's build; 0 if there is no table, CFA_GAP's rule if it does not know the address. */
ALWAYS_INLINE struct rule *find_rule(struct table *table, u64 address)
{
	u64 within = address - table->base;
	u32 at = table->first_page + (u32)(within >> PAGE_BITS), offset = within & ((1 << PAGE_BITS) - 1);
	u32 low = 0, high, middle, number = 0;
	struct page *page;
	u64 *pair;
	int i;

	if (within >> PAGE_BITS >= table->pages)
		return rule_at(number);
	page = page_at(at);
	if (!page)
		return 0;
	high = page->rows;
	for (i = 0; i < ROW_STEPS; i++) {
		OPAQUE(i);
		if (low >= high)
			break;
		middle = (low + high) / 2;
		at = page->first_row + middle;
		number = at / 2;
		pair = rows_at(number);
		if (!pair)
			return 0;
		if (offset < (u16)(*pair >> (at % 2 * 32)))
			high = middle;
		else
			low = middle + 1;
	}
	at = page->first_row + low - 1;
	number = at / 2;
	pair = low ? rows_at(number) : 0;
	number = pair ? (u16)(*pair >> (at % 2 * 32 + 16)) : 0;
	return rule_at(number);
}

/* What enum cfa_kind's CFA_SIGNAL finds: struct ucontext (kernel: arch/x86/include/uapi/asm/sigcontext.h), in bytes. */
#define UCONTEXT_BP 120
#define UCONTEXT_SP 160
#define UCONTEXT_IP 168

/* By DWARF's numbers (System V ABI, AMD64, figure 3.36). Non-zero for those that no compiler uses for a frame. */
ALWAYS_INLINE int read_register(u64 *value, struct pt_regs *regs, u8 number)
{
	switch (number) {
	case 0: *value = regs->ax; return 0;
	case 1: *value = regs->dx; return 0;
	case 2: *value = regs->cx; return 0;
	case 3: *value = regs->bx; return 0;
	case 4: *value = regs->si; return 0;
	case 5: *value = regs->di; return 0;
	case 8: *value = regs->r8; return 0;
	case 9: *value = regs->r9; return 0;
	case 10: *value = regs->r10; return 0;
	case 11: *value = regs->r11; return 0;
	case 12: *value = regs->r12; return 0;
	case 13: *value = regs->r13; return 0;
	case 14: *value = regs->r14; return 0;
	case 15: *value = regs->r15; return 0;
	}
	return -1;
}

ALWAYS_INLINE u32 step_signal(struct frame *frame, struct rule *rule)
{
	u64 context = frame->sp + rule->a;
	u64 bp, saved[2];

	if (read_user(&bp, sizeof(bp), context + UCONTEXT_BP) || read_user(saved, sizeof(saved), context + UCONTEXT_SP))
		return STOP_UNREADABLE;
	frame->bp = bp;
	/* The other stack of sigaltstack may lie anywhere: no order to hold to. */
	frame->sp = saved[0];
	frame->ip = saved[1];
	frame->exact = 1;
	frame->leaf = 0;
	return frame->ip ? STOP_NOT_YET : STOP_WHOLE;
}

ALWAYS_INLINE u32 step_frame_pointer(struct frame *frame)
{
	u64 saved[2];

	/* The frame of a function that has none is somewhere else, or nowhere. */
	if (frame->bp < frame->sp || frame->bp & 7 || read_user(saved, sizeof(saved), frame->bp))
		return STOP_NO_FRAME_POINTER;
	frame->sp = frame->bp + sizeof(saved);
	frame->bp = saved[0];
	frame->ip = saved[1];
	frame->exact = 0;
	frame->leaf = 0;
	frame->by_frame_pointer = 1;
	return frame->ip ? STOP_NOT_YET : STOP_WHOLE;
}

/* From a frame to its caller; STOP_NOT_YET if there is one. */
ALWAYS_INLINE u32 step(struct frame *frame, struct pt_regs *regs)
{
	struct region *region = find_region(frame, frame->ip - !frame->exact);
	struct table *table;
	struct rule *rule;
	u64 cfa, saved[2];
	u32 number;

	frame->by_frame_pointer = 0;
	if (!region)
		return STOP_UNMAPPED;
	number = region->table;
	table = table_at(number);
	if (!table || !table->pages)
		return step_frame_pointer(frame);
	rule = find_rule(table, frame->ip - !frame->exact - region->bias);
	if (!rule)
		return STOP_NO_RULE;

	switch (rule->cfa) {
	case CFA_STOP:
		return STOP_WHOLE;
	case CFA_SP:
		cfa = frame->sp + rule->a;
		break;
	case CFA_BP:
		cfa = frame->bp + rule->a;
		break;
	case CFA_REGISTER:
		if (!frame->leaf || read_register(&cfa, regs, rule->reg))
			return STOP_RULE;
		cfa += rule->a;
		break;
	case CFA_PLT:
		cfa = frame->sp + 8 + ((frame->ip & 15) >= rule->a ? 8 : 0);
		break;
	case CFA_DEREF_SP:
		if (read_user(&cfa, sizeof(cfa), frame->sp + rule->a))
			return STOP_UNREADABLE;
		cfa += rule->c;
		break;
	case CFA_DEREF_BP:
		if (read_user(&cfa, sizeof(cfa), frame->bp + rule->a))
			return STOP_UNREADABLE;
		cfa += rule->c;
		break;
	case CFA_SIGNAL:
		return step_signal(frame, rule);
	case CFA_GAP:
		/* Assembly, or generated code within a file (V8's builtins): it may keep frame pointers. */
		return step_frame_pointer(frame);
	default:
		return STOP_RULE;
	}
	/* Below the return address lies what the prologue pushed first: mostly rbp, so one read has both. */
	if (cfa <= frame->sp && !frame->leaf)
		return STOP_NO_PROGRESS;
	if (read_user(saved, sizeof(saved), cfa - sizeof(saved)))
		return STOP_UNREADABLE;
	switch (rule->bp) {
	case BP_SAME:
		break;
	case BP_AT_CFA:
		if (rule->b == -(s16)sizeof(saved))
			frame->bp = saved[0];
		else if (read_user(&frame->bp, sizeof(frame->bp), cfa + rule->b))
			return STOP_UNREADABLE;
		break;
	case BP_AT_SP:
		if (read_user(&frame->bp, sizeof(frame->bp), frame->sp + rule->b))
			return STOP_UNREADABLE;
		break;
	case BP_AT_BP:
		if (read_user(&frame->bp, sizeof(frame->bp), frame->bp + rule->b))
			return STOP_UNREADABLE;
		break;
	default:
		frame->bp = 0;
	}
	frame->sp = cfa;
	frame->ip = saved[1];
	frame->exact = rule->flags & RULE_SIGNAL_FRAME;
	frame->leaf = 0;
	return frame->ip ? STOP_NOT_YET : STOP_WHOLE;
}
#endif
