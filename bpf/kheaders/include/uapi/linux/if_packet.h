/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* BCC brings its own copy under another include guard; a second one would clash. */
#ifndef FF_UAPI_LINUX_IF_PACKET_H
#define FF_UAPI_LINUX_IF_PACKET_H
#endif
