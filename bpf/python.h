/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The Python frames of a thread, CPython 3.8 to 3.14, and between which native frames they belong.
 *
 *     thread's fsbase -> thread state -> innermost frame -> its caller's -> ...
 *
 * The C function that evaluates Python code does so for one Python function, or, from 3.11 on, for several that call each
 * other: a run. Each run leaves an anchor on the C stack, a structure of the interpreter's that is a local variable of
 * the evaluating function: where its address lies between a native frame's stack pointer and its CFA, that frame
 * evaluates the run. So nothing depends on symbols, on how the compiler split that function, or on which machine code an
 * instruction of Python's became. 3.8 and 3.9 have no anchor: there, each native frame whose code is the evaluating
 * function's has one Python frame.
 *
 * Which version it is stands in struct python_layout alone. All that is read is a process's own memory, which may say
 * anything: every loop has a bound, every failed read ends the walk with a reason.
 *
 * Does not know perf events or samples. Whoever includes it defines ALWAYS_INLINE, OPAQUE, read_user, and python_met, which
 * is told of each code object.
 */
#ifndef FLEETFLAME_PYTHON_H
#define FLEETFLAME_PYTHON_H

/* What tells one run from the next. */
enum python_runs {
	PYTHON_EACH,	    /* 3.8, 3.9: each frame is a run, without an anchor */
	PYTHON_EACH_CFRAME, /* 3.10: each frame is a run; its anchor is a CFrame, and those are linked */
	PYTHON_ENTRY,	    /* 3.11: a run ends with a frame that says so; anchors as in 3.10 */
	PYTHON_SHIM_CFRAME, /* 3.12: a run ends with a frame of no function, which lies on the C stack and is the anchor */
	PYTHON_SHIM,	    /* 3.13 on: the same, and the thread state has the innermost frame itself */
};

/* Offsets, in bytes, in what the name begins with. agent/python/layouts.py says where they come from. */
struct python_layout {
	u64 interpreters; /* address of _PyRuntime.interpreters.head */
	u64 eval;	  /* PYTHON_EACH: address of _PyEval_EvalFrameDefault */
	u64 eval_cold;	  /* and of what the compiler moved away from it; 0 if it did not */
	u32 eval_size;
	u32 eval_cold_size;
	u32 interpreter_next;
	u32 interpreter_threads;
	u16 thread_next;
	u16 thread_id;
	u16 thread_frame;  /* pointer to the innermost frame; not in 3.11 and 3.12, where the CFrame has it */
	u16 thread_cframe; /* pointer to the innermost CFrame, 3.10 to 3.12 */
	u16 cframe_frame;
	u16 cframe_previous;
	u16 frame_code;
	u16 frame_previous;
	u16 frame_instruction;
	u16 frame_end; /* u8: is_entry, or owner */
	u16 code_checked; /* where PYTHON_CHECKED words begin that stay what they are as long as the object lives */
	u16 code_instructions; /* from 3.11 on: where in the object its instructions begin */
	u8 runs;	   /* enum python_runs */
	u8 instruction_scale; /* 1, 2: frame_instruction is an int32 to be multiplied with it; 0: an address */
	u8 unused[6];
};
SAME(sizeof(struct python_layout), SIZEOF_PYTHON_LAYOUT);

/*
 * Runs of frames, leaf first. A frame is two words: address of its code object; offset of the instruction in bytes (31
 * bits, -2 before the first one) << 32 | checksum of the code object. After the last frame of a run comes a word with
 * PYTHON_RUN and the number of native frames that are nearer to the leaf.
 */
#define PYTHON_FRAMES 128
#define PYTHON_WORDS 318
#define PYTHON_RUN (1ULL << 63)
#define PYTHON_CODE ((1ULL << 56) - 4) /* from 3.14 on, the lowest two bits of a reference are flags */

struct python_stack {
	u32 depth; /* words */
	u32 miss;  /* enum python_miss: why the runs nearest to the root are not there */
	u64 word[PYTHON_WORDS];
};
SAME(sizeof(struct python_stack), SIZEOF_PYTHON_STACK);

/* A code object that was met, for user space to read it while the process lives. */
struct python_code {
	u64 image;
	u64 code;
	u32 checksum;
	u32 unused;
};
SAME(sizeof(struct python_code), SIZEOF_PYTHON_CODE);

enum python_miss {
	PYTHON_WHOLE,
	PYTHON_NO_THREAD,  /* no such thread: it never ran Python */
	PYTHON_NOT_FOUND,  /* too many threads to have found it by now; the next sample searches on */
	PYTHON_UNREADABLE, /* paged out, or no longer what we take it for */
	PYTHON_DEPTH,	   /* more frames than PYTHON_FRAMES, or than there is room for */
};

/* A thread's state, once found. It is asked for its thread each time before it is used, so an old one does no harm. */
struct python_thread {
	u64 state;
	u64 none; /* no state: it is none of the threads of a list that began like this, */
	u64 next; /* up to this one; 0: to the list's end */
};

/* struct _frame up to f_lasti in 3.8 has 108 bytes, _PyInterpreterFrame up to owner in 3.14 has 75. */
#define PYTHON_FRAME_WORDS 10
#define PYTHON_OLD_FRAME_WORDS 14
#define PYTHON_CHECKED 11

/* Thread states looked at in a sample that has to search; 128 take 10 us, once in a thread's life. */
#define PYTHON_THREADS 128
/* Frames or native frames looked at in one call; and frames followed to the end of a run of which there are too many. */
#define PYTHON_STEPS 192
#define PYTHON_DEEPEST 1024

struct python_walk {
	u64 image;
	u64 frame;  /* the next one, 0: there is none */
	u64 cframe; /* that of the run */
	u64 anchor;
	u32 closing; /* a run is to be closed: its native frame is looked for */
	u32 native;  /* native frames nearer to the leaf, as far as is known */
	u32 frames;
	u32 unused;
	u64 read[16]; /* bytes of a frame, then of its code object */
};

ALWAYS_INLINE u64 python_mix_in(u64 hash, u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 29;
}

/* agent/python/code.py computes the same of what it reads. */
ALWAYS_INLINE u32 python_checksum(u64 *words)
{
	u64 hash = 0;
	int i;

#pragma unroll
	for (i = 0; i < PYTHON_CHECKED; i++)
		hash = python_mix_in(hash, words[i]);
	return hash;
}

/*
 * The thread state whose thread has this fsbase, which is what pthread_self() gives, whatever PID namespace it is in. New
 * threads come first in an interpreter's list.
 */
ALWAYS_INLINE u32 python_find_thread(struct python_layout *layout, u64 fsbase, struct python_thread *thread)
{
	u64 state = thread->state, begin = thread->next, none = thread->none, interpreter = 0, id = 0, next = 0;
	u32 several = 0;
	int i;

	if (state && !read_user(&id, sizeof(id), state + layout->thread_id) && id == fsbase)
		return PYTHON_WHOLE;
	thread->state = 0;
	thread->next = 0;
	thread->none = 0;
	if (read_user(&interpreter, sizeof(interpreter), layout->interpreters) || !interpreter ||
	    read_user(&state, sizeof(state), interpreter + layout->interpreter_threads))
		return PYTHON_UNREADABLE;
	for (i = 0; i < PYTHON_THREADS; i++) {
		OPAQUE(i);
		if (!state) {
			/* The next interpreter, which most processes do not have. */
			if (read_user(&interpreter, sizeof(interpreter), interpreter + layout->interpreter_next))
				return PYTHON_UNREADABLE;
			if (!interpreter) {
				if (!several)
					thread->none = none;
				return PYTHON_NO_THREAD;
			}
			several = 1;
			if (read_user(&state, sizeof(state), interpreter + layout->interpreter_threads))
				return PYTHON_UNREADABLE;
			continue;
		}
		if (read_user(&id, sizeof(id), state + layout->thread_id) ||
		    read_user(&next, sizeof(next), state + layout->thread_next))
			return PYTHON_NOT_FOUND; /* freed since the last sample: begin again */
		if (id == fsbase) {
			thread->state = state;
			return PYTHON_WHOLE;
		}
		if (i == 0) {
			/* A new thread comes first: a list that begins as it did has no new one. */
			id = python_mix_in(state, next) | 1;
			if (id == none && begin) {
				next = begin;
			} else if (id == none) {
				thread->none = none;
				return PYTHON_NO_THREAD;
			}
			none = id;
		}
		state = next;
	}
	if (!several) {
		thread->none = none;
		thread->next = state;
	}
	return PYTHON_NOT_FOUND;
}

/* The first run of a thread. */
ALWAYS_INLINE u32 python_begin(struct python_layout *layout, u64 state, struct python_walk *walk)
{
	u64 from = state + layout->thread_frame;

	walk->closing = 0;
	walk->native = 0;
	walk->frames = 0;
	walk->cframe = 0;
	walk->frame = 0;
	if (layout->thread_cframe && read_user(&walk->cframe, sizeof(u64), state + layout->thread_cframe))
		return PYTHON_UNREADABLE;
	if (layout->runs == PYTHON_ENTRY || layout->runs == PYTHON_SHIM_CFRAME)
		from = walk->cframe + layout->cframe_frame;
	return read_user(&walk->frame, sizeof(u64), from) ? PYTHON_UNREADABLE : PYTHON_WHOLE;
}

/* Code and instruction of the frame whose bytes are in walk->read. */
ALWAYS_INLINE u32 python_emit(struct python_layout *layout, struct python_walk *walk, struct python_stack *stack)
{
	u64 code = walk->read[layout->frame_code / 8 & 15] & PYTHON_CODE;
	u64 instruction = walk->read[layout->frame_instruction / 8 & 15];
	u32 depth = stack->depth, checksum;

	walk->frames++;
	if (walk->frames > PYTHON_FRAMES || depth >= PYTHON_WORDS - 2)
		return walk->frames > PYTHON_DEEPEST ? PYTHON_DEPTH : PYTHON_WHOLE;
	if (layout->instruction_scale)
		instruction = (u32)instruction * layout->instruction_scale;
	else
		instruction -= code + layout->code_instructions;
	if (read_user(walk->read, PYTHON_CHECKED * 8, code + layout->code_checked))
		return PYTHON_UNREADABLE;
	checksum = python_checksum(walk->read);
	python_met(walk->image, code, checksum);
	stack->word[depth] = code;
	stack->word[depth + 1] = (instruction & 0x7fffffff) << 32 | checksum;
	stack->depth = depth + 2;
	return PYTHON_WHOLE;
}

/* The frame at walk->frame: emits it, finds its caller, and says whether that ends a run. */
ALWAYS_INLINE u32 python_frame(struct python_layout *layout, struct python_walk *walk, struct python_stack *stack)
{
	u64 frame = walk->frame, previous;
	u8 end;
	u32 miss;

	if (layout->runs <= PYTHON_EACH_CFRAME ? read_user(walk->read, PYTHON_OLD_FRAME_WORDS * 8, frame) :
						 read_user(walk->read, PYTHON_FRAME_WORDS * 8, frame))
		return PYTHON_UNREADABLE;
	previous = walk->read[layout->frame_previous / 8 & 15];
	end = walk->read[layout->frame_end / 8 & 15] >> layout->frame_end % 8 * 8;
	walk->frame = previous;
	/* FRAME_OWNED_BY_CSTACK is 3 in 3.12 and 3.13, as FRAME_OWNED_BY_INTERPRETER is in 3.14, where the former is 4. */
	if (layout->runs >= PYTHON_SHIM_CFRAME && end >= 3) {
		walk->anchor = frame;
		walk->closing = 1;
		return PYTHON_WHOLE;
	}
	miss = python_emit(layout, walk, stack);
	if (miss || layout->runs >= PYTHON_SHIM_CFRAME || (layout->runs == PYTHON_ENTRY && !end))
		return miss;
	walk->closing = 1;
	walk->anchor = walk->cframe;
	if (layout->runs == PYTHON_EACH)
		return PYTHON_WHOLE;
	if (!walk->cframe || read_user(&walk->cframe, sizeof(u64), walk->cframe + layout->cframe_previous))
		return PYTHON_UNREADABLE;
	return PYTHON_WHOLE;
}

/* Whether native frame number `at`, whose caller's stack pointer is `cfa`, evaluates the run that is to be closed. */
ALWAYS_INLINE int python_evaluates(struct python_layout *layout, struct python_walk *walk, u64 address, u64 cfa)
{
	if (layout->runs != PYTHON_EACH)
		return walk->anchor < cfa;
	return address - layout->eval < layout->eval_size || address - layout->eval_cold < layout->eval_cold_size;
}

ALWAYS_INLINE void python_close(struct python_stack *stack, u32 native)
{
	u32 depth = stack->depth;

	if (depth < PYTHON_WORDS) {
		stack->word[depth] = PYTHON_RUN | native;
		stack->depth = depth + 1;
	}
}

/*
 * Some steps of the walk that python_begin began. `address` and `cfa` are those of `natives` native frames, leaf first.
 * Returns 1 if there is more to do; else stack->miss says how it ended.
 */
ALWAYS_INLINE int python_walk(struct python_layout *layout, struct python_walk *walk, struct python_stack *stack,
			      u64 *address, u64 *cfa, u32 natives)
{
	u32 native, miss;
	int i;

	for (i = 0; i < PYTHON_STEPS; i++) {
		OPAQUE(i);
		if (!walk->closing) {
			if (!walk->frame)
				break;
			miss = python_frame(layout, walk, stack);
			stack->miss = miss;
			if (miss)
				break;
			continue;
		}
		native = walk->native;
		if (native < natives && native < MAX_DEPTH &&
		    !python_evaluates(layout, walk, address[native], cfa[native])) {
			walk->native = native + 1;
			continue;
		}
		walk->closing = 0;
		python_close(stack, native);
		if (walk->frames >= PYTHON_FRAMES || stack->depth >= PYTHON_WORDS - 2) {
			if (walk->frame || walk->frames > PYTHON_FRAMES)
				stack->miss = PYTHON_DEPTH;
			return 0;
		}
		if (layout->runs == PYTHON_EACH && native < natives)
			walk->native = native + 1;
	}
	if (i >= PYTHON_STEPS)
		return 1;
	/* Where a run broke off, what there is of it follows the frames that it called. */
	if (stack->miss)
		python_close(stack, walk->native);
	return 0;
}
#endif
