/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the kernel programs and user space agree on: layouts and counters.
 *
 * Python's side is bpf/layout.py. It hands over its own sizes and offsets as -D flags, and the assertions below refuse to
 * compile when the two differ; nobody edits this text at run time.
 */
#ifndef FLEETFLAME_SHARED_H
#define FLEETFLAME_SHARED_H

/* Frames per stack, and of those that the kernel resolves: its own limit (kernel.perf_event_max_stack) unless raised. */
#define MAX_DEPTH 128
#define MAX_ID_DEPTH 127

/*
 * A stack's key is a 64-bit hash of its frames. Values below 16 are never hashes: 0 means that there is no such stack,
 * 1 to 15 say why it is missing (model.FrameMiss). The top bit tells the two stack maps apart.
 */
#define NO_STACK 0ULL
#define MISS_NO_USER_STACK 1ULL
#define MISS_NO_KERNEL_STACK 2ULL
#define MISS_STACK_MAP_FULL 3ULL
#define MISS_STACK_COLLISION 4ULL
#define FIRST_HASH 16ULL
#define ID_STACK_BIT (1ULL << 63)

/* One row of counts: everything that tells samples apart before they leave the kernel. */
struct count_key {
	u64 image;  /* process image, see struct process */
	u64 user;   /* key of the user stack, or why there is none */
	u64 kernel; /* key of the kernel stack */
	u64 python; /* key of the Python frames that belong into the user stack, 0: none */
	u32 tgid;
	u32 tid;       /* 0 unless PER_THREAD: a row per thread is a choice of the operator */
	char comm[16]; /* the thread's if PER_THREAD, else what the process was called when its image began */
};

/*
 * Addresses as the unwinder found them, leaf first. Bit i of the masks says of frame i that its address is that of an
 * interrupted instruction (of the first frame it is in any case), and that a frame pointer led to it where no table did.
 */
struct stack {
	u32 depth;
	u32 stop; /* enum stop; 0: the kernel's own unwinder found it, which does not say */
	u64 exact[MAX_DEPTH / 64];
	u64 by_frame_pointer[MAX_DEPTH / 64];
	u64 address[MAX_DEPTH];
};

/* The kernel's own struct bpf_stack_build_id (include/uapi/linux/bpf.h): status 1 = id and offset hold, 2 = ip only. */
struct id_frame {
	int status;
	unsigned char build_id[20];
	u64 address;
};

struct id_stack {
	u32 depth;
	u32 unused;
	struct id_frame frame[MAX_ID_DEPTH];
};

/*
 * A process image is one program in one process: a new one begins at fork and at exec, so that neither a reused tgid nor
 * an exec in the middle of a window mixes up two sets of mappings. Its id is the time in units of 1,024 ns above 22 bits
 * of tgid (PID_MAX_LIMIT is 2^22): unique without a shared counter, since one tgid cannot begin twice within a microsecond.
 */
struct process {
	u64 image;
	u64 origin;    /* of an image that user space was not told of: the nearest one it was told of, from which it was forked */
	char comm[16]; /* rows have it too, so that a process whose events were lost has a name at least */
	u64 asked; /* when user space was told last that a stack led to unknown memory, ns */
	u32 told;
	u32 sampled;
	u32 asks;
	u32 unused;
};

/* The mappings of a process are asked for this long after the last time at least, doubled each time. */
#define ASK_AGAIN_NS 20000000ULL
#define MAX_ASKS 9 /* 10 s */

/*
 * Most processes of a busy machine are never sampled. So a fork is told when its child is sampled first; what the child
 * was forked from will do for its labels and mappings. An exec is told at once, since what runs may end at any moment, and
 * once more when it is sampled first: SAMPLED. UNMAPPED says that a stack led to memory that the image's layout does not
 * have. EXIT_UNSAMPLED is the exit of an image of which there is no sample so far.
 */
enum event_kind {
	EVENT_EXEC = 1,
	EVENT_FORK = 2,
	EVENT_EXIT = 3,
	EVENT_SEEN = 4,
	EVENT_EXIT_UNSAMPLED = 5,
	EVENT_SAMPLED = 6,
	EVENT_UNMAPPED = 7,
};

struct process_event {
	u32 kind;
	u32 tgid;
	u64 image;
	u64 parent_image; /* what this one was forked from, or was before its exec, as far as it was told; else 0 */
	char comm[16];
};

/*
 * One counter per early return. TAKEN counts every call; COUNTS_FULL is the only way to lose a sample, the others keep it
 * with a placeholder. EVENT_LOST costs labels, not samples.
 */
enum counter {
	COUNTER_TAKEN,
	COUNTER_COUNTS_FULL,
	COUNTER_NO_USER_STACK,
	COUNTER_NO_KERNEL_STACK,
	COUNTER_STACK_MAP_FULL,
	COUNTER_STACK_COLLISION,
	COUNTER_ID_STACK_MAP_FULL,
	COUNTER_PROCESS_MAP_FULL,
	COUNTER_EVENT_LOST,
	COUNTER_NO_TAIL_CALL,
	COUNTER_PYTHON_STACK_MAP_FULL,
	COUNTER_PYTHON_CODE_LOST,
	COUNTERS,
};

#define SAME(what, flag) _Static_assert((what) == (flag), #what " differs from " #flag " in layout.py")
SAME(sizeof(struct count_key), SIZEOF_COUNT_KEY);
SAME(sizeof(struct stack), SIZEOF_STACK);
SAME(sizeof(struct id_frame), SIZEOF_ID_FRAME);
SAME(sizeof(struct id_stack), SIZEOF_ID_STACK);
SAME(sizeof(struct process_event), SIZEOF_PROCESS_EVENT);
SAME(__builtin_offsetof(struct count_key, comm), OFFSETOF_COMM);
SAME(__builtin_offsetof(struct id_frame, address), OFFSETOF_ID_ADDRESS);
SAME(COUNTERS, NUMBER_OF_COUNTERS);

#endif
