from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Batch(_message.Message):
    __slots__ = ("version", "node", "epoch", "sequence", "dictionary", "window_start_ns", "window_ns", "period_ns", "type", "strings", "mappings", "named", "series", "first_number", "stacks", "samples", "ledger")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DICTIONARY_FIELD_NUMBER: _ClassVar[int]
    WINDOW_START_NS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_NS_FIELD_NUMBER: _ClassVar[int]
    PERIOD_NS_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    STRINGS_FIELD_NUMBER: _ClassVar[int]
    MAPPINGS_FIELD_NUMBER: _ClassVar[int]
    NAMED_FIELD_NUMBER: _ClassVar[int]
    SERIES_FIELD_NUMBER: _ClassVar[int]
    FIRST_NUMBER_FIELD_NUMBER: _ClassVar[int]
    STACKS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    version: int
    node: str
    epoch: bytes
    sequence: int
    dictionary: int
    window_start_ns: int
    window_ns: int
    period_ns: int
    type: str
    strings: _containers.RepeatedScalarFieldContainer[str]
    mappings: _containers.RepeatedCompositeFieldContainer[Mapping]
    named: _containers.RepeatedCompositeFieldContainer[NamedFrame]
    series: _containers.RepeatedCompositeFieldContainer[Series]
    first_number: int
    stacks: StackTable
    samples: Samples
    ledger: Ledger
    def __init__(self, version: _Optional[int] = ..., node: _Optional[str] = ..., epoch: _Optional[bytes] = ..., sequence: _Optional[int] = ..., dictionary: _Optional[int] = ..., window_start_ns: _Optional[int] = ..., window_ns: _Optional[int] = ..., period_ns: _Optional[int] = ..., type: _Optional[str] = ..., strings: _Optional[_Iterable[str]] = ..., mappings: _Optional[_Iterable[_Union[Mapping, _Mapping]]] = ..., named: _Optional[_Iterable[_Union[NamedFrame, _Mapping]]] = ..., series: _Optional[_Iterable[_Union[Series, _Mapping]]] = ..., first_number: _Optional[int] = ..., stacks: _Optional[_Union[StackTable, _Mapping]] = ..., samples: _Optional[_Union[Samples, _Mapping]] = ..., ledger: _Optional[_Union[Ledger, _Mapping]] = ...) -> None: ...

class Mapping(_message.Message):
    __slots__ = ("kind", "build_id", "path", "segment_offset", "segment_vaddr", "segment_size")
    KIND_FIELD_NUMBER: _ClassVar[int]
    BUILD_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_VADDR_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_SIZE_FIELD_NUMBER: _ClassVar[int]
    kind: int
    build_id: bytes
    path: int
    segment_offset: _containers.RepeatedScalarFieldContainer[int]
    segment_vaddr: _containers.RepeatedScalarFieldContainer[int]
    segment_size: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, kind: _Optional[int] = ..., build_id: _Optional[bytes] = ..., path: _Optional[int] = ..., segment_offset: _Optional[_Iterable[int]] = ..., segment_vaddr: _Optional[_Iterable[int]] = ..., segment_size: _Optional[_Iterable[int]] = ...) -> None: ...

class NamedFrame(_message.Message):
    __slots__ = ("name", "file", "line")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    name: int
    file: int
    line: int
    def __init__(self, name: _Optional[int] = ..., file: _Optional[int] = ..., line: _Optional[int] = ...) -> None: ...

class Series(_message.Message):
    __slots__ = ("label_name", "label_value")
    LABEL_NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_VALUE_FIELD_NUMBER: _ClassVar[int]
    label_name: _containers.RepeatedScalarFieldContainer[int]
    label_value: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, label_name: _Optional[_Iterable[int]] = ..., label_value: _Optional[_Iterable[int]] = ...) -> None: ...

class StackTable(_message.Message):
    __slots__ = ("shared", "fresh", "mapping", "address")
    SHARED_FIELD_NUMBER: _ClassVar[int]
    FRESH_FIELD_NUMBER: _ClassVar[int]
    MAPPING_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    shared: _containers.RepeatedScalarFieldContainer[int]
    fresh: _containers.RepeatedScalarFieldContainer[int]
    mapping: _containers.RepeatedScalarFieldContainer[int]
    address: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, shared: _Optional[_Iterable[int]] = ..., fresh: _Optional[_Iterable[int]] = ..., mapping: _Optional[_Iterable[int]] = ..., address: _Optional[_Iterable[int]] = ...) -> None: ...

class Samples(_message.Message):
    __slots__ = ("rows", "number", "count")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedScalarFieldContainer[int]
    number: _containers.RepeatedScalarFieldContainer[int]
    count: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, rows: _Optional[_Iterable[int]] = ..., number: _Optional[_Iterable[int]] = ..., count: _Optional[_Iterable[int]] = ...) -> None: ...

class Ledger(_message.Message):
    __slots__ = ("taken", "lost_reason", "lost_count", "degraded_reason", "degraded_count", "taken_in_epoch")
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    LOST_REASON_FIELD_NUMBER: _ClassVar[int]
    LOST_COUNT_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_REASON_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_COUNT_FIELD_NUMBER: _ClassVar[int]
    TAKEN_IN_EPOCH_FIELD_NUMBER: _ClassVar[int]
    taken: int
    lost_reason: _containers.RepeatedScalarFieldContainer[int]
    lost_count: _containers.RepeatedScalarFieldContainer[int]
    degraded_reason: _containers.RepeatedScalarFieldContainer[int]
    degraded_count: _containers.RepeatedScalarFieldContainer[int]
    taken_in_epoch: int
    def __init__(self, taken: _Optional[int] = ..., lost_reason: _Optional[_Iterable[int]] = ..., lost_count: _Optional[_Iterable[int]] = ..., degraded_reason: _Optional[_Iterable[int]] = ..., degraded_count: _Optional[_Iterable[int]] = ..., taken_in_epoch: _Optional[int] = ...) -> None: ...
