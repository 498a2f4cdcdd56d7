"""One running agent: what is started, in which order, and how it stops. The only file of the agent that starts tasks.

    threads   events: process events -> images        windows: drain -> normalize -> hand over
              jvm-maps: asks JVMs for names                    tables: unwind tables -> kernel
    loop      batch -> publish; requests of the aggregator; heartbeat; monitor

    start     bus (in the background: samples wait for it), kernel programs, threads, tasks
    stop      sample no more, hand over the last window, flush to the bus (FLUSH_S at most), close

A part that fails ends the process with an error: whatever runs it starts it again.
"""

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent import heap, metrics, privileges
from agent.batch import Batcher
from agent.builds import Builds
from agent.bus import Bus, BusConfig
from agent.config import AgentConfig, Unwind
from agent.facts import ProcessFacts
from agent.handover import Handover
from agent.jit.maps import JitMaps
from agent.jit.requests import MapRequests
from agent.kernel import Kernel
from agent.kernelmaps import online_cpus
from agent.labels import Labeller
from agent.mapsizes import load_options
from agent.node import NodeService
from agent.normalize import NormalizedWindow, Normalizer
from agent.processes import ImageTable
from agent.publish import Publisher
from agent.python.codes import Codes
from agent.python.record import pack_layout
from agent.sampler import Sampler
from agent.snapshot import Snapshot
from agent.unwind.compiler import Compiler
from agent.unwind.layouts import Layouts
from agent.unwind.tables import KernelTables
from agent.unwind.unwinding import Source, Unwinding
from bpf import layout
from fleetflame.cfi import RULE_DTYPE
from fleetflame.model import Labels

log = logging.getLogger(__name__)

FLUSH_S = 10.0
"""How long a stopping agent tries to get rid of what it has. What is left then is logged with its count."""
EVENT_WAIT_S = 0.2
"""How often images that have settled are looked at when nothing happens."""
NAMES_EVERY_S = 1.0
CANCEL_AGAIN_S = 1.0


@dataclass(slots=True)
class Parts:
    """What threads and tasks work on."""

    config: AgentConfig
    sampler: Sampler
    unwinding: Unwinding
    images: ImageTable
    labeller: Labeller
    codes: Codes
    normalizer: Normalizer
    batcher: Batcher
    bus: Bus
    publisher: Publisher
    node: NodeService
    handover: Handover
    stopping: threading.Event
    drained: asyncio.Event


def run(config: AgentConfig) -> int:
    """Runs one agent until SIGTERM or SIGINT; returns 0 then. Raises FleetflameError."""
    heap.keep_small()
    asyncio.run(_run(config))
    return 0


async def _run(config: AgentConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with _parts(config) as parts:
        log.info(
            "sampling",
            extra={"node": config.node, "frequency": config.frequency, "nats": parts.bus.config.shown},
        )
        _warn_of_shortages()
        await _work(parts, stop)


def _warn_of_shortages() -> None:
    """What an agent does without is in its log, not only in what its profiles lack."""
    for shortage in privileges.find_shortages():
        log.warning("running without a capability", extra={"missing": shortage.name, "cost": shortage.lost})


@contextlib.asynccontextmanager
async def _parts(config: AgentConfig) -> AsyncIterator[Parts]:
    bus = Bus(BusConfig(servers=config.nats, node=config.node))
    async with contextlib.AsyncExitStack() as stack:
        # A node that boots before its bus samples all the same; an answer that refuses us is fatal at once.
        await bus.start(wait=True)
        stack.push_async_callback(bus.close)
        sampler = await asyncio.to_thread(_load, config)
        stack.push_async_callback(asyncio.to_thread, sampler.close)
        builds = Builds()
        labeller = Labeller(config.labels)
        unwinding = _unwinding(sampler, Compiler(builds) if config.unwind is Unwind.TABLES else None)
        images = ImageTable(
            builds,
            on_mapped=partial(_tell_mapped, sampler, unwinding),
            on_forgotten=lambda image: unwinding.remove(image, sampler.forget_layout),
            on_facts=labeller.notice,
        )
        kernel = Kernel()
        jit = _jit_maps(config, stack)
        codes = Codes()
        batcher = Batcher(node=config.node, epoch=os.urandom(16))
        parts = Parts(
            config=config,
            sampler=sampler,
            unwinding=unwinding,
            images=images,
            labeller=labeller,
            codes=codes,
            normalizer=Normalizer(images, kernel, _labels_of(labeller), jit=jit, codes=codes),
            batcher=batcher,
            bus=bus,
            publisher=Publisher(bus, queue_bytes=config.queue_bytes, on_drop=batcher.note_dropped),
            node=NodeService(bus, builds, kernel, about=lambda: _about(config)),
            handover=Handover(asyncio.get_running_loop()),
            stopping=threading.Event(),
            drained=asyncio.Event(),
        )
        if config.metrics_listen:
            from agent.monitor import Monitor  # an HTTP server: not for an agent that serves nothing

            trouble = "no connection to NATS"
            stack.enter_context(Monitor(config.metrics_listen, lambda: "" if bus.connected else trouble))
        yield parts


def _load(config: AgentConfig) -> Sampler:
    return Sampler(load_options(config, cpus=len(online_cpus())), frequency=config.frequency)


def _tell_mapped(sampler: Sampler, unwinding: Unwinding, image: int, snapshot: Snapshot) -> None:
    # The layout last: with it samples begin to be unwound.
    if snapshot.python is not None:
        sampler.set_python(image, pack_layout(snapshot.python))
    unwinding.put(image, snapshot, sampler.set_layout)


def _jit_maps(config: AgentConfig, stack: contextlib.AsyncExitStack) -> JitMaps:
    asking = None
    if config.java_maps:
        asking = stack.enter_context(
            MapRequests(interval_s=config.java_map_interval, per_minute=config.java_maps_per_minute)
        )
    jit = JitMaps(on_sampled=asking.want if asking else None)
    stack.callback(jit.close)
    return jit


def _unwinding(sampler: Sampler, source: Source | None) -> Unwinding:
    tables = KernelTables(
        sampler.array("tables", layout.TABLE),
        sampler.array("pages", layout.PAGE),
        sampler.array("rows", layout.ROWS),
        sampler.array("rules", RULE_DTYPE),
    )
    regions = sampler.array("regions", layout.REGION)
    return Unwinding(tables, partial(Layouts, regions), source, slots=sampler.table_slots)


def _about(config: AgentConfig) -> dict[str, object]:
    """What the node's entry on the bus says besides name and time."""
    system = os.uname()
    return {
        "version": importlib.metadata.version("fleetflame"),
        "frequency": config.frequency,
        "cpus": len(online_cpus()),
        "kernel": system.release,
        "machine": system.machine,
    }


def _labels_of(labeller: Labeller) -> Callable[[ProcessFacts, str], Labels | None]:
    return lambda facts, thread: labeller.labels(facts, thread=thread)


async def _work(parts: Parts, stop: asyncio.Event) -> None:
    """Until `stop`, or until a part fails: then its exception."""
    threads = [
        asyncio.create_task(asyncio.to_thread(_follow_events, parts), name="events"),
        asyncio.create_task(asyncio.to_thread(parts.unwinding.run, parts.stopping), name="tables"),
        asyncio.create_task(asyncio.to_thread(_take_windows, parts, asyncio.get_running_loop()), name="windows"),
    ]
    tasks = [
        asyncio.create_task(_batch(parts), name="batch"),
        asyncio.create_task(parts.publisher.run(), name="publish"),
        asyncio.create_task(parts.node.run(), name="requests"),
        asyncio.create_task(_refresh_names(parts), name="names"),
    ]
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        done, _ = await asyncio.wait({stopped, *threads, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        if stopped in done:
            log.info("stopping")
            parts.stopping.set()
            parts.unwinding.interrupt()
            await asyncio.gather(*threads)
            await parts.drained.wait()
            await parts.handover.join()
            await parts.publisher.flush(FLUSH_S)
        for task in done - {stopped}:
            task.result()
    finally:
        parts.stopping.set()
        parts.unwinding.interrupt()
        await _cancel({stopped, *tasks})
        await asyncio.gather(*threads, return_exceptions=True)


async def _cancel(tasks: "set[asyncio.Task[Any]]") -> None:
    # Until they have ended: the client of the bus waits with asyncio.wait_for, which until Python 3.12 forgets a
    # cancellation that comes together with the answer (github.com/python/cpython/issues/86296).
    left = tasks
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)


def _follow_events(parts: Parts) -> None:
    while not parts.stopping.is_set():
        for event in parts.sampler.events(EVENT_WAIT_S):
            parts.images.apply(event)
        for image, address, checksum in parts.sampler.python_codes():
            parts.codes.note(parts.images.find(image), (address, checksum))


def _take_windows(parts: Parts, loop: asyncio.AbstractEventLoop) -> None:
    while not parts.stopping.wait(_until_next(parts.config.window, time.time())):
        parts.handover.offer(_window(parts))
        heap.give_back()
    parts.sampler.stop()
    parts.handover.offer(_window(parts))
    loop.call_soon_threadsafe(parts.drained.set)


def _until_next(width_s: int, now: float) -> float:
    """Seconds to the next multiple of the width: all nodes' windows begin at the same moments."""
    return width_s - now % width_s


def _window(parts: Parts) -> NormalizedWindow:
    start = time.monotonic()
    window = parts.sampler.take()
    drained = time.monotonic()
    normalized = parts.normalizer.normalize(window)
    parts.unwinding.note(normalized.mappings)
    metrics.DRAIN_SECONDS.observe(drained - start)
    metrics.NORMALIZE_SECONDS.observe(time.monotonic() - drained)
    metrics.WINDOWS.inc()
    metrics.SAMPLES_TAKEN.inc(window.taken)
    for reason, count in normalized.lost.items():
        metrics.SAMPLES_LOST.labels(reason).inc(count)
    for reason, count in normalized.degraded.items():
        metrics.SAMPLES_DEGRADED.labels(reason).inc(count)
    for reason, count in parts.sampler.degraded.items():
        if count:
            metrics.KERNEL_SHORTAGES.labels(reason).inc(count)
    return normalized


async def _batch(parts: Parts) -> None:
    while True:
        window = await parts.handover.take()
        parts.batcher.limit_messages(parts.bus.message_bytes)
        with metrics.ENCODE_SECONDS.time():
            messages = parts.batcher.messages(window)
        metrics.DICTIONARY_STACKS.set(parts.batcher.known_stacks)
        for message in messages:
            parts.publisher.put(message)


async def _refresh_names(parts: Parts) -> None:
    """Container names come from an engine's socket, which may take its time: not in the sampling threads."""
    while True:
        await asyncio.sleep(NAMES_EVERY_S)
        await asyncio.to_thread(parts.labeller.refresh)
