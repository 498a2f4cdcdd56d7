/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What a program attached to a perf event gets (kernel: include/uapi/linux/bpf_perf_event.h). */
#ifndef FF_UAPI_LINUX_BPF_PERF_EVENT_H
#define FF_UAPI_LINUX_BPF_PERF_EVENT_H
#include <uapi/linux/ptrace.h>

struct bpf_perf_event_data {
	bpf_user_pt_regs_t regs;
	__u64 sample_period;
	__u64 addr;
};
#endif
