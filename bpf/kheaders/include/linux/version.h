/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Old kernels compare this with their own version before they load a tracing program; since 5.0 nobody looks. */
#ifndef FF_LINUX_VERSION_H
#define FF_LINUX_VERSION_H
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 11, 0)
#endif
