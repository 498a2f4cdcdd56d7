/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* BCC sizes its per-CPU maps with this; it must be a constant expression. */
#ifndef FF_LINUX_LOG2_H
#define FF_LINUX_LOG2_H
#define roundup_pow_of_two(n) ((n) <= 1 ? 1UL : 1UL << (64 - __builtin_clzl((unsigned long)(n) - 1)))
#endif
