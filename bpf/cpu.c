/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * CPU profile: where is each processor when its clock ticks?
 *
 * A perf event (PERF_COUNT_SW_CPU_CLOCK, one per CPU) calls on_sample, which adds 1 to a row of `counts`; the stacks that
 * rows refer to stand in `stacks` and `id_stacks`. Three raw tracepoints follow processes through fork, exec and exit.
 *
 * Never allocates, never blocks, never loops without a bound, and needs no kprobe. What it cannot record it counts.
 *
 * From -D flags: COUNTS_ENTRIES, STACK_ENTRIES, ID_STACK_ENTRIES, PROCESS_ENTRIES (map sizes, entries), PER_THREAD (0 or
 * 1), TASK_PID, TASK_TGID, TASK_MM, TASK_FSBASE (byte offsets in struct task_struct, read from the kernel's BTF by the
 * loader), PYTHON_*.
 */
#include <uapi/linux/ptrace.h>
#include <uapi/linux/bpf_perf_event.h>
#include "shared.h"

/*
 * Keeps clang from turning a loop's counter into pointers that count down from an unknown depth, which the verifier, who
 * walks every iteration with its exact counter, can then no longer bound.
 */
#define OPAQUE(variable) asm volatile("" : "+r"(variable))

/*
 * Two sets of maps: programs write to the active one while user space drains the other. Draining a map that is written to
 * would lose the stack of a row, or a row, between the two reads.
 */
BPF_ARRAY(active_set, u32, 1);
BPF_PERCPU_ARRAY(counters0, u64, COUNTERS);
BPF_PERCPU_ARRAY(counters1, u64, COUNTERS);
BPF_TABLE("hash", struct count_key, u64, counts0, COUNTS_ENTRIES);
BPF_TABLE("hash", struct count_key, u64, counts1, COUNTS_ENTRIES);
BPF_TABLE("hash", u64, struct stack, stacks0, STACK_ENTRIES);
BPF_TABLE("hash", u64, struct stack, stacks1, STACK_ENTRIES);
BPF_TABLE("hash", u64, struct id_stack, id_stacks0, ID_STACK_ENTRIES);
BPF_TABLE("hash", u64, struct id_stack, id_stacks1, ID_STACK_ENTRIES);

/* tgid -> its image. Least recently used: one that falls out is met again as a new image and costs one event. */
BPF_TABLE("lru_hash", u32, struct process, processes, PROCESS_ENTRIES);

/*
 * Images whose mappings user space has read -> their layout, 0 if there is none and frame pointers have to do. Until then
 * the kernel names build IDs itself: see unwind_user.
 */
BPF_TABLE("lru_hash", u64, u64, layouts, PROCESS_ENTRIES);

BPF_RINGBUF_OUTPUT(events, EVENT_PAGES);

#include "unwind.h"
BPF_ARRAY(regions, struct region, REGIONS_ENTRIES);
BPF_ARRAY(tables, struct table, TABLES_ENTRIES);
BPF_ARRAY(pages, struct page, PAGES_ENTRIES);
BPF_ARRAY(rows, u64, ROWS_ENTRIES);
BPF_ARRAY(rules, struct rule, RULES_ENTRIES);

/* BCC understands maps in this file only. */
static inline struct region *region_at(u32 index) { return regions.lookup(&index); }
static inline struct table *table_at(u32 index) { return tables.lookup(&index); }
static inline struct page *page_at(u32 index) { return pages.lookup(&index); }
static inline u64 *rows_at(u32 index) { return rows.lookup(&index); }
static inline struct rule *rule_at(u32 index) { return rules.lookup(&index); }
#define read_user(to, size, from) bpf_probe_read_user(to, size, (void *)(from))
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#include "step.h"
static inline void python_met(u64 image, u64 code, u32 checksum);
#include "python.h"

/*
 * Images that run CPython; threads of theirs by tid; their stacks, in two sets like those of native frames; and code objects
 * met for the first time or not lately: a place for each hash of one, which remembers who was there last.
 */
BPF_TABLE("lru_hash", u64, struct python_layout, pythons, PYTHON_ENTRIES);
BPF_TABLE("lru_hash", u32, struct python_thread, python_threads, PYTHON_THREAD_ENTRIES);
BPF_TABLE("hash", u64, struct python_stack, python_stacks0, PYTHON_STACK_ENTRIES);
BPF_TABLE("hash", u64, struct python_stack, python_stacks1, PYTHON_STACK_ENTRIES);
BPF_RINGBUF_OUTPUT(python_codes, PYTHON_CODE_PAGES);
#define PYTHON_SEEN 16384
BPF_ARRAY(python_seen, u64, PYTHON_SEEN);

/* Stacks are too large for the 512 bytes of a program's own stack. One of each: on_sample is not re-entered on a CPU. */
struct scratch {
	struct stack stack;
	struct id_stack id_stack;
	struct count_key key;
	struct frame frame;
	struct pt_regs regs;
	u64 cfa[MAX_DEPTH]; /* of the frames in stack */
	struct python_walk python_walk;
	struct python_stack python_stack;
	u32 set;
};
BPF_PERCPU_ARRAY(scratch_space, struct scratch, 1);

/* A program may walk so many instructions only: a walk of many frames is many calls of one program, and one that ends it. */
#define WALK 0
#define FINISH 1
#define FIND_PYTHON 2
#define WALK_PYTHON 3
BPF_PROG_ARRAY(walkers, 4);
#define FRAMES_PER_CALL 8

static inline void bump(u32 set, int counter)
{
	u64 *n = set ? counters1.lookup(&counter) : counters0.lookup(&counter);

	if (n)
		*n += 1;
}

static inline u32 current_set(void)
{
	int zero = 0;
	u32 *set = active_set.lookup(&zero);

	return set ? *set & 1 : 0;
}

/* Two that share a place and are both in use are told again and again, which costs some 100 ns each time. */
static inline void python_met(u64 image, u64 code, u32 checksum)
{
	u64 tag = (image ^ code * 0x9e3779b97f4a7c15ULL) + checksum * 0xff51afd7ed558ccdULL, *seen;
	struct python_code met = { .image = image, .code = code, .checksum = checksum };
	int place = (tag ^ tag >> 32) % PYTHON_SEEN;

	seen = python_seen.lookup(&place);
	if (!seen || *seen == tag)
		return;
	*seen = tag;
	if (python_codes.ringbuf_output(&met, sizeof(met), 0))
		bump(current_set(), COUNTER_PYTHON_CODE_LOST);
}

static inline u64 new_image(u32 tgid)
{
	return (bpf_ktime_get_ns() >> 10) << 22 | (tgid & ((1 << 22) - 1));
}

static inline void tell(u32 kind, u32 tgid, u64 image, u64 parent_image)
{
	struct process_event *event = events.ringbuf_reserve(sizeof(*event));

	if (!event) {
		bump(current_set(), COUNTER_EVENT_LOST);
		return;
	}
	event->kind = kind;
	event->tgid = tgid;
	event->image = image;
	event->parent_image = parent_image;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	events.ringbuf_submit(event, 0);
}

static inline void begin(u32 tgid, struct process *fresh)
{
	fresh->image = new_image(tgid);
	bpf_get_current_comm(fresh->comm, sizeof(fresh->comm));
	if (processes.update(&tgid, fresh))
		bump(current_set(), COUNTER_PROCESS_MAP_FULL);
}

/* The process, begun now if it is unknown: it was there before us, or fell out of the map. */
static inline struct process *process_of(u32 tgid)
{
	struct process *process = processes.lookup(&tgid);
	struct process fresh = {};

	if (process)
		return process;
	begin(tgid, &fresh);
	return processes.lookup(&tgid);
}

/* Two CPUs that come here at the same moment tell it twice, which is as good as once. */
static inline void introduce(u32 tgid, struct process *process)
{
	if (process->told)
		return;
	process->told = 1;
	tell(process->origin ? EVENT_FORK : EVENT_SEEN, tgid, process->image, process->origin);
}

/* The nearest image that user space knows of: this one, or what it was forked from. */
static inline u64 told_image(struct process *process)
{
	return process->told ? process->image : process->origin;
}

/* Multiply and fold, a word at a time: spreads the few bits in which neighbouring stacks differ over all 64. */
static inline u64 mix(u64 hash, u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 29;
}

static inline u64 key_of(u64 hash, u64 top_bit)
{
	hash &= ~ID_STACK_BIT;
	if (hash < FIRST_HASH)
		hash += FIRST_HASH;
	return hash | top_bit;
}

/* Adds a stack to the active set and returns its key; a MISS_ where it could not be kept, which the row then carries. */
static inline u64 keep_stack(u32 set, struct stack *stack)
{
	u64 key = mix(stack->depth, stack->stop);
	struct stack *old;
	int i;

	key = mix(mix(key, stack->exact[0]), stack->exact[1]);
	key = mix(mix(key, stack->by_frame_pointer[0]), stack->by_frame_pointer[1]);
	for (i = 0; i < MAX_DEPTH; i++) {
		OPAQUE(i);
		if (i >= stack->depth)
			break;
		key = mix(key, stack->address[i]);
	}
	key = key_of(key, 0);
	old = set ? stacks1.lookup(&key) : stacks0.lookup(&key);
	if (old) {
		/* Equal hashes of unequal stacks: one in 2^64 by chance, but a wrong name is worse than a missing one. */
		if (old->depth == stack->depth && old->address[0] == stack->address[0])
			return key;
		bump(set, COUNTER_STACK_COLLISION);
		return MISS_STACK_COLLISION;
	}
	if (!(set ? stacks1.update(&key, stack) : stacks0.update(&key, stack)))
		return key;
	bump(set, COUNTER_STACK_MAP_FULL);
	return MISS_STACK_MAP_FULL;
}

static inline u64 keep_id_stack(u32 set, struct id_stack *stack)
{
	u64 *words = (u64 *)stack->frame;
	u64 key = stack->depth;
	struct id_stack *old;
	int i;

	for (i = 0; i < MAX_ID_DEPTH * sizeof(struct id_frame) / sizeof(u64); i++) {
		OPAQUE(i);
		if (i >= stack->depth * (sizeof(struct id_frame) / sizeof(u64)))
			break;
		key = mix(key, words[i]);
	}
	key = key_of(key, ID_STACK_BIT);
	old = set ? id_stacks1.lookup(&key) : id_stacks0.lookup(&key);
	if (old) {
		if (old->depth == stack->depth && old->frame[0].address == stack->frame[0].address)
			return key;
		bump(set, COUNTER_STACK_COLLISION);
		return MISS_STACK_COLLISION;
	}
	if (!(set ? id_stacks1.update(&key, stack) : id_stacks0.update(&key, stack)))
		return key;
	return MISS_STACK_MAP_FULL;
}

static inline u64 keep_python_stack(u32 set, struct python_stack *stack)
{
	u64 key = mix(stack->depth, stack->miss);
	struct python_stack *old;
	int i;

	if (!stack->depth && !stack->miss)
		return NO_STACK;
	for (i = 0; i < PYTHON_WORDS; i++) {
		OPAQUE(i);
		if (i >= stack->depth)
			break;
		key = mix(key, stack->word[i]);
	}
	key = key_of(key, 0);
	old = set ? python_stacks1.lookup(&key) : python_stacks0.lookup(&key);
	if (old) {
		if (old->depth == stack->depth && old->word[0] == stack->word[0])
			return key;
		bump(set, COUNTER_STACK_COLLISION);
		return MISS_STACK_COLLISION;
	}
	if (!(set ? python_stacks1.update(&key, stack) : python_stacks0.update(&key, stack)))
		return key;
	bump(set, COUNTER_PYTHON_STACK_MAP_FULL);
	return MISS_STACK_MAP_FULL;
}

/* What the kernel's own unwinder found, by frame pointers: plain addresses. */
static inline u64 keep_plain(u32 set, struct stack *stack, int size)
{
	stack->depth = size / sizeof(u64);
	stack->stop = STOP_NOT_YET;
	stack->exact[0] = stack->exact[1] = 0;
	stack->by_frame_pointer[0] = stack->by_frame_pointer[1] = 0;
	return keep_stack(set, stack);
}

/*
 * The user stack of an image without a layout, by frame pointers.
 *
 * Where nobody has read the image's mappings, it may be gone before anybody can: the kernel says which build each address
 * belongs to. That costs more per frame and 4 KiB per stack, so only until user space is ready.
 */
static inline u64 unwind_plainly(struct bpf_perf_event_data *ctx, u32 set, int ready, struct scratch *scratch)
{
	u64 key;
	int size;

	if (!ready) {
		size = bpf_get_stack(ctx, scratch->id_stack.frame, sizeof(scratch->id_stack.frame),
				     BPF_F_USER_STACK | BPF_F_USER_BUILD_ID);
		if (size > 0) {
			scratch->id_stack.depth = size / sizeof(struct id_frame);
			key = keep_id_stack(set, &scratch->id_stack);
			if (key != MISS_STACK_MAP_FULL)
				return key;
			/* No room there: plain addresses are better than none. */
			bump(set, COUNTER_ID_STACK_MAP_FULL);
		}
	}
	size = bpf_get_stack(ctx, scratch->stack.address, sizeof(scratch->stack.address), BPF_F_USER_STACK);
	if (size > 0)
		return keep_plain(set, &scratch->stack, size);
	bump(set, COUNTER_NO_USER_STACK);
	return MISS_NO_USER_STACK;
}

static inline u64 unwind_kernel(struct bpf_perf_event_data *ctx, u32 set, struct scratch *scratch)
{
	int size = bpf_get_stack(ctx, scratch->stack.address, sizeof(scratch->stack.address), 0);

	if (size > 0)
		return keep_plain(set, &scratch->stack, size);
	bump(set, COUNTER_NO_KERNEL_STACK);
	return MISS_NO_KERNEL_STACK;
}

/* The registers with which the interrupted process left user mode, also where it is in the kernel now. */
static inline int begin_walk(struct scratch *scratch, u64 layout)
{
	void *registers = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct frame *frame = &scratch->frame;

	if (bpf_probe_read_kernel(&scratch->regs, sizeof(scratch->regs), registers) || IS_32_BIT(&scratch->regs))
		return -1;
	frame->ip = REGISTER_IP(&scratch->regs);
	frame->sp = REGISTER_SP(&scratch->regs);
	frame->bp = REGISTER_BP(&scratch->regs);
	frame->layout = layout;
	frame->region = layout >> 32;
	frame->exact = 1;
	frame->leaf = 1;
	frame->by_frame_pointer = 0;
	scratch->stack.depth = 0;
	scratch->stack.stop = STOP_NOT_YET;
	scratch->stack.exact[0] = scratch->stack.exact[1] = 0;
	scratch->stack.by_frame_pointer[0] = scratch->stack.by_frame_pointer[1] = 0;
	scratch->python_stack.depth = 0;
	scratch->python_stack.miss = PYTHON_WHOLE;
	return 0;
}

static inline void count_sample(u32 set, struct count_key *key)
{
	u64 *count = set ? counts1.lookup(key) : counts0.lookup(key), one = 1;

	if (count) {
		/* The same row may be counted on another CPU at this moment. */
		lock_xadd(count, 1);
		return;
	}
	if (!(set ? counts1.insert(key, &one) : counts0.insert(key, &one)))
		return;
	count = set ? counts1.lookup(key) : counts0.lookup(key);
	if (count)
		lock_xadd(count, 1); /* another CPU inserted it between our two calls */
	else
		bump(set, COUNTER_COUNTS_FULL);
}

/* Kernel threads, and processes past the end of their address space, have no user stack to miss. */
static inline int has_user_memory(void)
{
	void *task = (void *)bpf_get_current_task();
	void *mm = 0;

	bpf_probe_read_kernel(&mm, sizeof(mm), task + TASK_MM);
	return mm != 0;
}

/*
 * Code was loaded since user space looked, or frame pointers led astray. It has to look while the process is there; what
 * always leads astray is asked for ever more seldom.
 */
static inline void ask_for_mappings(struct count_key *key)
{
	u32 tgid = key->tgid;
	struct process *process = processes.lookup(&tgid);
	u64 now = bpf_ktime_get_ns();

	if (!process || process->image != key->image || now - process->asked < ASK_AGAIN_NS << (process->asks & 15))
		return;
	process->asked = now;
	if (process->asks < MAX_ASKS)
		process->asks++;
	tell(EVENT_UNMAPPED, tgid, key->image, 0);
}

int on_sample(struct bpf_perf_event_data *ctx)
{
	u64 ids = bpf_get_current_pid_tgid(), *layout;
	u32 set = current_set();
	struct count_key *key;
	struct scratch *scratch;
	struct process *process;
	int zero = 0;

	bump(set, COUNTER_TAKEN);
	scratch = scratch_space.lookup(&zero);
	if (!scratch)
		return 0; /* SANITY: an array map of one entry has its entry 0; the verifier cannot know. */

	key = &scratch->key;
	__builtin_memset(key, 0, sizeof(*key));
	key->tgid = ids >> 32;
	process = process_of(key->tgid);
	if (process) {
		if (!process->sampled) {
			process->sampled = 1;
			if (process->told)
				tell(EVENT_SAMPLED, key->tgid, process->image, 0);
			else
				introduce(key->tgid, process);
		}
		key->image = process->image;
		__builtin_memcpy(key->comm, process->comm, sizeof(key->comm));
	} else {
		key->image = new_image(key->tgid);
	}
	if (PER_THREAD || !process) {
		key->tid = PER_THREAD ? ids : 0;
		bpf_get_current_comm(key->comm, sizeof(key->comm));
	}
	if (!IN_USER_MODE(&ctx->regs))
		key->kernel = unwind_kernel(ctx, set, scratch);
	if (has_user_memory()) {
		layout = layouts.lookup(&key->image);
		if (layout && *layout && !begin_walk(scratch, *layout)) {
			scratch->set = set;
			walkers.call(ctx, WALK);
			bump(set, COUNTER_NO_TAIL_CALL);
		}
		key->user = unwind_plainly(ctx, set, layout != 0, scratch);
	}
	count_sample(set, key);
	return 0;
}

int walk(struct bpf_perf_event_data *ctx)
{
	int zero = 0, i;
	struct scratch *scratch = scratch_space.lookup(&zero);
	struct stack *stack;
	struct frame *frame;
	u32 depth;

	if (!scratch)
		return 0;
	stack = &scratch->stack;
	frame = &scratch->frame;
	for (i = 0; i < FRAMES_PER_CALL; i++) {
		OPAQUE(i);
		depth = stack->depth;
		if (depth >= MAX_DEPTH) {
			stack->stop = STOP_DEPTH;
			break;
		}
		stack->address[depth] = frame->ip;
		if (frame->exact)
			stack->exact[depth / 64] |= 1ULL << depth % 64;
		if (frame->by_frame_pointer)
			stack->by_frame_pointer[depth / 64] |= 1ULL << depth % 64;
		stack->depth = depth + 1;
		stack->stop = step(frame, &scratch->regs);
		scratch->cfa[depth] = frame->sp;
		if (stack->stop)
			break;
	}
	if (!stack->stop)
		walkers.call(ctx, WALK);
	if (pythons.lookup(&scratch->key.image))
		walkers.call(ctx, FIND_PYTHON);
	walkers.call(ctx, FINISH);
	/* Not reached: both places are filled before anything is sampled, and the calls are fewer than the kernel allows. */
	bump(scratch->set, COUNTER_NO_TAIL_CALL);
	return 0;
}

/* The address of the thread's own memory, which is what pthread_self() gives. Nothing else may be running it now. */
static inline u64 thread_pointer(void)
{
	void *task = (void *)bpf_get_current_task();
	u64 fsbase = 0;

	bpf_probe_read_kernel(&fsbase, sizeof(fsbase), task + TASK_FSBASE);
	return fsbase;
}

int find_python(struct bpf_perf_event_data *ctx)
{
	struct python_thread unknown = {}, *thread;
	struct python_layout *layout;
	struct scratch *scratch;
	u32 tid = bpf_get_current_pid_tgid(), miss;
	int zero = 0;

	scratch = scratch_space.lookup(&zero);
	if (!scratch)
		return 0;
	layout = pythons.lookup(&scratch->key.image);
	thread = python_threads.lookup(&tid);
	if (!thread) {
		python_threads.update(&tid, &unknown);
		thread = python_threads.lookup(&tid);
	}
	if (layout && thread) {
		miss = python_find_thread(layout, thread_pointer(), thread);
		scratch->python_walk.image = scratch->key.image;
		if (!miss)
			miss = python_begin(layout, thread->state, &scratch->python_walk);
		if (!miss)
			walkers.call(ctx, WALK_PYTHON);
		if (miss != PYTHON_NO_THREAD)
			scratch->python_stack.miss = miss;
	}
	walkers.call(ctx, FINISH);
	bump(scratch->set, COUNTER_NO_TAIL_CALL);
	return 0;
}

int walk_python(struct bpf_perf_event_data *ctx)
{
	struct python_layout *layout;
	struct scratch *scratch;
	int zero = 0;

	scratch = scratch_space.lookup(&zero);
	if (!scratch)
		return 0;
	layout = pythons.lookup(&scratch->key.image);
	if (layout && python_walk(layout, &scratch->python_walk, &scratch->python_stack, scratch->stack.address, scratch->cfa,
				  scratch->stack.depth))
		walkers.call(ctx, WALK_PYTHON);
	walkers.call(ctx, FINISH);
	bump(scratch->set, COUNTER_NO_TAIL_CALL);
	return 0;
}

int finish(struct bpf_perf_event_data *ctx)
{
	int zero = 0;
	struct scratch *scratch = scratch_space.lookup(&zero);

	if (!scratch)
		return 0;
	if (scratch->stack.stop == STOP_UNMAPPED)
		ask_for_mappings(&scratch->key);
	scratch->key.user = keep_stack(scratch->set, &scratch->stack);
	scratch->key.python = keep_python_stack(scratch->set, &scratch->python_stack);
	count_sample(scratch->set, &scratch->key);
	return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_exec)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct process fresh = { .told = 1 }, *former = processes.lookup(&tgid);
	u64 former_image = former ? told_image(former) : 0;

	begin(tgid, &fresh);
	tell(EVENT_EXEC, tgid, fresh.image, former_image);
	return 0;
}

/* Arguments: parent task, child task. */
RAW_TRACEPOINT_PROBE(sched_process_fork)
{
	void *child = (void *)ctx->args[1];
	u32 parent_tgid = bpf_get_current_pid_tgid() >> 32, pid = 0, tgid = 0;
	struct process fresh = {}, *parent;

	bpf_probe_read_kernel(&pid, sizeof(pid), child + TASK_PID);
	bpf_probe_read_kernel(&tgid, sizeof(tgid), child + TASK_TGID);
	if (pid != tgid)
		return 0; /* a thread: same process, same mappings */
	parent = process_of(parent_tgid);
	if (parent) {
		/* Once per process that forks: its children, which may be gone before anybody looks, are in its cgroup. */
		if (!parent->origin)
			introduce(parent_tgid, parent);
		fresh.origin = told_image(parent);
	}
	begin(tgid, &fresh);
	return 0;
}

/*
 * The entry stays in `processes`: tearing down the address space comes after this point and is sampled too. A reused
 * tgid starts with a fork, which replaces it.
 */
RAW_TRACEPOINT_PROBE(sched_process_exit)
{
	u64 ids = bpf_get_current_pid_tgid();
	u32 tgid = ids >> 32;
	struct process *process;

	if (tgid != (u32)ids)
		return 0;
	process = processes.lookup(&tgid);
	if (process && process->told)
		tell(process->sampled ? EVENT_EXIT : EVENT_EXIT_UNSAMPLED, tgid, process->image, 0);
	return 0;
}

/* The kernel admits bpf_get_stack and bpf_probe_read_kernel to GPL-compatible programs only. */
#define BPF_LICENSE Dual BSD/GPL
