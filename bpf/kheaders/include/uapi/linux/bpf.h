/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* BCC brings its own copy under another include guard; a second one would clash. */
#ifndef FF_UAPI_LINUX_BPF_H
#define FF_UAPI_LINUX_BPF_H
#endif
