/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The interrupted registers as the kernel lays them out (arch ABI: struct pt_regs, user_pt_regs on arm64). */
#ifndef FF_UAPI_LINUX_PTRACE_H
#define FF_UAPI_LINUX_PTRACE_H
#include <linux/types.h>

#if defined(__TARGET_ARCH_x86) || defined(__x86_64__)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx;
	unsigned long r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax;
	unsigned long ip, cs, flags, sp, ss;
};
typedef struct pt_regs bpf_user_pt_regs_t;
/* The privilege level in the code segment selector: 3 is user mode. */
#define IN_USER_MODE(regs) (((regs)->cs & 3) == 3)
/* Selector of 32-bit code (__USER32_CS, arch/x86/include/asm/segment.h). */
#define IS_32_BIT(regs) ((regs)->cs == 0x23)
#define REGISTER_IP(regs) ((regs)->ip)
#define REGISTER_SP(regs) ((regs)->sp)
#define REGISTER_BP(regs) ((regs)->bp)
#elif defined(__TARGET_ARCH_arm64) || defined(__aarch64__)
struct user_pt_regs {
	__u64 regs[31];
	__u64 sp, pc, pstate;
};
struct pt_regs {
	struct user_pt_regs user_regs;
};
typedef struct user_pt_regs bpf_user_pt_regs_t;
/* The exception level in pstate: EL0 is user mode. */
#define IN_USER_MODE(regs) (((regs)->pstate & 0xf) == 0)
#define IS_32_BIT(regs) (((regs)->user_regs.pstate & 0x10) != 0)
#define REGISTER_IP(regs) ((regs)->user_regs.pc)
#define REGISTER_SP(regs) ((regs)->user_regs.sp)
#define REGISTER_BP(regs) ((regs)->user_regs.regs[29])
#else
#error "fleetflame samples on x86-64 and arm64"
#endif
#endif
