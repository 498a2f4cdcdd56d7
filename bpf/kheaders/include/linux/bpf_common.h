/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Instruction classes that BCC's bpf.h expects from here; programs written in C use none of them. */
#ifndef FF_LINUX_BPF_COMMON_H
#define FF_LINUX_BPF_COMMON_H
#endif
