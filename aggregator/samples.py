"""What a file from elsewhere holds, whatever its format: samples as columns."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fleetflame.model import Labels, Mapping, NamedFrame

I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Row i: `count[i]` samples with the labels `labels[group[i]]` and the frames frame[offsets[i]:offsets[i + 1]].

    Frames are root first, and numbers of frames: frame f is (mappings[frame_mapping[f]], frame_address[f]), as in
    `model`. Rows may repeat. Times are nanoseconds, 0 if the file does not say.
    """

    mappings: tuple[Mapping, ...]
    named: tuple[NamedFrame, ...]
    frame_mapping: I64
    frame_address: NDArray[np.uint64]
    offsets: I64
    frame: I64
    labels: tuple[Labels, ...]
    group: I64
    count: NDArray[np.uint64]
    period_ns: int = 0
    time_ns: int = 0
    window_ns: int = 0
