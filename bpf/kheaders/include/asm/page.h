/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* BCC's ring-buffer macro counts in pages. */
#ifndef FF_ASM_PAGE_H
#define FF_ASM_PAGE_H
#define PAGE_SHIFT 12
#define PAGE_SIZE (1UL << PAGE_SHIFT)
#endif
