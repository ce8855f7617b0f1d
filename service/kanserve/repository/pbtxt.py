"""Parser of an operator's `config.pbtxt`: Triton's `model_config.proto` as text, limited to the supported fields.

The file is next to the versions, no manifest lists it, and an operator may edit it. It configures how a model is
served, not the computation. A warning names unsupported fields. Source of fields and rules: Triton's model
configuration guide, and the checks of its `model_config_utils.cc`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import Message

from kanexport.shared import triton
from kanexport.shared.triton import THREADS
from kanserve.errors import LoadError, LoadReason
from kanserve.pb import model_config_pb2 as pb
from kanserve.scheduling.queue import Policy, PriorityLevel
from kanserve.types import TensorInfo


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Version policy: the `latest` number of versions (0: not this), the `specific` ones, or all."""

    latest: int = 0
    specific: tuple[int, ...] | None = None
    # Versions that do not count for `latest`, because no server serves them by default: edits without a release.
    edits: frozenset[int] = frozenset()
    default: int = 0  # version that the file `default` of the model names, which is served in addition; 0: none

    def __str__(self) -> str:
        if self.latest:
            return f"latest {self.latest}"
        return "all" if self.specific is None else f"specific {', '.join(map(str, self.specific)) or 'none'}"

    def served(self, versions: Collection[int]) -> set[int]:
        """Versions of `versions` that are served."""
        present = set(versions)
        selected = present if self.specific is None else present & set(self.specific)
        if self.latest:
            regular = sorted(present - self.edits)[-self.latest :]
            later = sorted(version for version in self.edits & present if version > min(regular, default=0))
            selected = {*regular, *later[-self.latest :]}
        return selected | ({self.default} & present)


ALL = VersionPolicy()


def parse(text: str) -> VersionPolicy:
    """Version policy of a setting: `all`, `latest:N` or `specific:1,3`."""
    kind, _, numbers = text.partition(":")
    if kind == "latest":
        return VersionPolicy(latest=int(numbers))
    return VersionPolicy(specific=tuple(sorted(map(int, numbers.split(","))))) if kind == "specific" else ALL


FILE_NAME = "config.pbtxt"
SIZE_LIMIT = 2**17  # bytes; the parser takes half a second for this size
LABELS_LIMIT = 2**20  # bytes of a file with labels
PLATFORMS = {"backend": ("", "onnxruntime"), "platform": ("", "onnxruntime_onnx")}
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MOST = 1024  # priority levels, each with separate queues; instances; threads
# Supported fields, by message.
KNOWN = {
    "ModelConfig": {
        *("name", "platform", "backend", "max_batch_size", "version_policy", "input", "output", "parameters"),
        *("dynamic_batching", "instance_group"),
    },
    "ModelInput": {"name", "data_type", "dims"},
    "ModelOutput": {"name", "data_type", "dims", "label_filename"},
    "ModelInstanceGroup": {"name", "kind", "count"},
}


@dataclass(frozen=True, slots=True)
class Labels:
    """Class labels of an output, in their order: the `lines` of a file next to config.pbtxt."""

    output: str
    file: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OperatorConfig:
    """Contents of a `config.pbtxt`. Unset fields are 0, None or empty."""

    name: str = ""
    max_batch_size: int = 0
    batching: Policy | None = None  # contents of `dynamic_batching`, with 0 for `max_rows`
    instances: int = 0
    device: str = ""  # cpu or cuda
    threads: int = 0  # number of threads of one run
    versions: VersionPolicy = ALL
    inputs: tuple[TensorInfo, ...] = ()  # input tensors, without the batch dimension
    outputs: tuple[TensorInfo, ...] = ()  # output tensors, without the batch dimension
    labels: tuple[Labels, ...] = ()  # label files; `layout` reads their lines
    unused: tuple[str, ...] = ()  # names of unsupported fields


SILENT = OperatorConfig()


KEPT, SHORT = 1024, 4096  # files whose configs are kept, and the most bytes of such a file


def read(data: bytes) -> OperatorConfig:
    """Operator config from the bytes of the file. Raises LoadError for invalid text, or for a config that cannot
    work. The server reads each file several times, so the configs of short files are kept."""
    return _parsed(data) if len(data) <= SHORT else _parsed.__wrapped__(data)


@functools.lru_cache(KEPT)
def _parsed(data: bytes) -> OperatorConfig:
    message = pb.ModelConfig()
    try:
        text_format.Parse(data.decode(), message)
    except UnicodeDecodeError as error:
        raise _rejected("is not UTF-8 text", code="config-not-text", hint="save the file as UTF-8") from error
    except text_format.ParseError as error:
        raise _rejected(
            f"has a syntax error at line:column {error}",
            code="config-syntax",
            hint="correct the file; its format is Triton's model configuration",
        ) from error
    for field, allowed in PLATFORMS.items():
        value = getattr(message, field)
        if value not in allowed:
            raise _rejected(
                f"has {field} {value!r}, expected {allowed[1]!r}",
                code="config-platform",
                hint=f"set {field} to {allowed[1]!r}, or remove it",
            )
    _drop_exporters(message)
    if message.max_batch_size < 0:
        raise _rejected(
            f"has max_batch_size {message.max_batch_size}, expected 1 or more",
            code="config-value-invalid",
            hint="set max_batch_size to 1 or more, or remove it",
        )
    policy, versions = message.version_policy, ALL
    kind = policy.WhichOneof("policy_choice")
    if kind == "latest":
        versions = VersionPolicy(latest=max(1, policy.latest.num_versions))
    elif kind == "specific":
        versions = VersionPolicy(specific=tuple(sorted(policy.specific.versions)))
    return OperatorConfig(
        name=message.name,
        max_batch_size=message.max_batch_size,
        batching=_batching(message) if message.HasField("dynamic_batching") else None,
        instances=_instances(message),
        device=_device(message),
        threads=_threads(message),
        versions=versions,
        inputs=tuple(map(_tensor, message.input)),
        outputs=tuple(map(_tensor, message.output)),
        labels=tuple(Labels(value.name, _beside(value)) for value in message.output if value.label_filename),
        unused=tuple(dict.fromkeys(_unused(message))),
    )


def _drop_exporters(message: Any) -> None:
    """Remove the options of execution that the exporter wrote for Triton, if they are unchanged: kanserve measures
    instances and threads, and its settings decide about batches. If one of them is changed, all are an operator's."""
    options = triton.find(group.name for group in message.instance_group)
    if options is None:
        return
    usual = pb.ModelConfig()
    text_format.Parse(options.text(), usual)
    same = list(message.instance_group) == list(usual.instance_group)
    same = same and _thread_text(message) == _thread_text(usual)
    if same and (not options.batching or message.dynamic_batching == usual.dynamic_batching):
        del message.instance_group[:]
        message.parameters.pop(THREADS, None)
        if options.batching:
            message.ClearField("dynamic_batching")


def _thread_text(message: Any) -> str | None:
    return message.parameters[THREADS].string_value if THREADS in message.parameters else None


def _rejected(fault: str, *, code: str, hint: str) -> LoadError:
    return LoadError(LoadReason.CONFIG, f"{FILE_NAME} {fault}", code=code, hint=hint)


def _batching(message: Any) -> Policy:
    batching = message.dynamic_batching
    levels = _levels(batching)
    if batching.preserve_ordering and (len(levels) > 1 or any(level.delays for level in levels)):
        raise _rejected(
            "combines preserve_ordering with several priority_levels or with timeout_action DELAY",
            code="config-options-conflict",
            hint="remove preserve_ordering, or the other option",
        )
    sizes, most = tuple(sorted(set(batching.preferred_batch_size))), message.max_batch_size  # 0: the file has none
    if sizes and (sizes[0] < 1 or 0 < most < sizes[-1]):
        raise _rejected(
            f"has preferred_batch_size {list(sizes)[:8]}, expected 1 to {most or 'the largest batch'}",
            code="config-value-invalid",
            hint="set each preferred_batch_size to at most max_batch_size",
        )
    usual = batching.default_priority_level
    if batching.priority_levels and not 1 <= usual <= batching.priority_levels:
        raise _rejected(
            f"has default_priority_level {usual}, expected 1 to {batching.priority_levels}",
            code="config-value-invalid",
            hint="set default_priority_level to one of the priority_levels",
        )
    return Policy(
        0,
        batching.max_queue_delay_microseconds / 1e6,
        sizes,
        levels,
        usual - 1 if batching.priority_levels else 0,
        batching.preserve_ordering,
    )


def _levels(batching: Any) -> tuple[PriorityLevel, ...]:
    if batching.priority_levels > MOST:
        raise _rejected(
            f"has {batching.priority_levels} priority_levels, expected at most {MOST}",
            code="config-value-invalid",
            hint="use fewer priority_levels",
        )
    for key in batching.priority_queue_policy:
        if not 1 <= key <= batching.priority_levels:
            raise _rejected(
                f"has a priority_queue_policy for level {key} of {batching.priority_levels} priority_levels",
                code="config-value-invalid",
                hint="raise priority_levels, or remove the policy",
            )
    usual = _level(batching.default_queue_policy) if batching.HasField("default_queue_policy") else PriorityLevel()
    return tuple(
        _level(batching.priority_queue_policy[level]) if level in batching.priority_queue_policy else usual
        for level in range(1, max(1, batching.priority_levels) + 1)
    )


def _level(policy: Any) -> PriorityLevel:
    return PriorityLevel(
        most=policy.max_queue_size,
        timeout=policy.default_timeout_microseconds / 1e6 or None,
        override=policy.allow_timeout_override,
        delays=policy.timeout_action == pb.ModelQueuePolicy.DELAY,
    )


def _instances(message: Any) -> int:
    """Number of instances of all groups; a group without a count has one."""
    counts = [group.count for group in message.instance_group]
    if min(counts, default=0) < 0 or sum(counts) > MOST:
        raise _rejected(
            f"has the instance_group counts {', '.join(map(str, counts))[:80]}, expected at most {MOST} in total",
            code="config-value-invalid",
            hint="use fewer instances",
        )
    return sum(max(1, count) for count in counts)


def _device(message: Any) -> str:
    kinds = {pb.ModelInstanceGroup.Kind.Name(group.kind) for group in message.instance_group} - {"KIND_AUTO"}
    if not kinds <= {"KIND_CPU", "KIND_GPU"} or len(kinds) > 1:
        raise _rejected(
            f"has an instance_group of {', '.join(sorted(kinds))}, expected only KIND_CPU or only KIND_GPU",
            code="config-value-invalid",
            hint="use one kind for all instance groups",
        )
    return {"KIND_CPU": "cpu", "KIND_GPU": "cuda"}[kinds.pop()] if kinds else ""


def _threads(message: Any) -> int:
    if THREADS not in message.parameters:
        return 0
    text = message.parameters[THREADS].string_value
    if not (text.isascii() and text.isdecimal()) or int(text) > MOST:
        raise _rejected(
            f"has intra_op_thread_count {text[:20]!r}, expected a number from 0 to {MOST}",
            code="config-value-invalid",
            hint="set a number of threads; 0 lets the server choose",
        )
    return int(text)


def _tensor(tensor: Any) -> TensorInfo:
    """The tensor of a field. An unset data type is ""."""
    datatype = pb.DataType.Name(tensor.data_type).removeprefix("TYPE_") if tensor.data_type else ""
    return TensorInfo(tensor.name, {"STRING": "BYTES"}.get(datatype, datatype), tuple(tensor.dims))


def _beside(output: Any) -> str:
    """The label file of an output, a plain name."""
    name = str(output.label_filename)
    if not FILE.fullmatch(name):
        raise _rejected(
            f"has label_filename {name[:80]!r}, expected the name of a file in the same directory",
            code="config-value-invalid",
            hint="put the label file next to config.pbtxt, and set its name without a path",
        )
    return name


def lines(name: str, data: bytes) -> tuple[str, ...]:
    """The labels in a file. Raises LoadError if the file is not UTF-8 text."""
    try:
        return tuple(data.decode().splitlines())
    except UnicodeDecodeError as error:
        raise _rejected(
            f"has the label file {name}, which is not UTF-8 text",
            code="labels-not-text",
            hint="save the label file as UTF-8",
        ) from error


def _unused(message: Message, path: str = "") -> Iterator[str]:
    """The set fields that have no effect on this server. An empty message counts as unset."""
    known = KNOWN[message.DESCRIPTOR.name]
    for field, value in message.ListFields():
        if field.name == "parameters":
            yield from (f"parameters.{key}" for key in value if key != THREADS)
        elif field.name in known:
            if field.message_type and field.message_type.name in KNOWN:
                for part in [value] if isinstance(value, Message) else value:
                    yield from _unused(part, f"{path}{field.name}.")
        elif not isinstance(value, Message) or value.ByteSize():
            yield path + field.name
