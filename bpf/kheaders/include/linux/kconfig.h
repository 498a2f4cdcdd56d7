/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* BCC's prologue asks for this one option before it declares its helpers. */
#ifndef FF_LINUX_KCONFIG_H
#define FF_LINUX_KCONFIG_H
#define CONFIG_BPF_SYSCALL 1
#endif
