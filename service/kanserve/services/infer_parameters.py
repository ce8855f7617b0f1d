"""Parameters of an inference request, and its limits, for every protocol: gRPC and REST apply the same rules.

The order of the checks and their texts are Triton's, so that a client that was written for Triton gets the same errors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sized
from typing import NamedTuple

from kanexport.contract.cli.suggest import advice
from kanserve.errors import BadRequest, Unsupported
from kanserve.types import Insight

# A few megabytes can name a million tensors; reading them would block the event loop for seconds.
COUNT_LIMITS = {"inputs": 64, "outputs": 64, "parameters": 64, "raw_input_contents": 64}
DIMENSION_LIMIT = 16
CLASSES, SHARED_MEMORY = "classification", "shared_memory_region"  # parameters of an output
PREFIX, COVERAGE, TOP_K = "kan.", "kan.coverage", "kan.explain_top_k"
MOST_TOP_K = 20
# Parameters of Triton and kanserve -> accepted members of InferParameter, and their names in errors.
PARAMETERS = {
    "sequence_id": (("int64_param", "string_param"), "int64_param or string_param"),
    "sequence_start": (("bool_param",), "bool_param"),
    "sequence_end": (("bool_param",), "bool_param"),
    "priority": (("int64_param", "uint64_param"), "int64_param or uint64_param"),
    "timeout": (("int64_param",), "int64_param"),
    "triton_enable_empty_final_response": (("bool_param",), "bool_param"),
    COVERAGE: (("bool_param",), "bool_param"),
    TOP_K: (("int64_param", "uint64_param"), "int64_param or uint64_param"),
}


class Parameter(NamedTuple):
    """Value with its member of InferParameter, such as ("int64_param", 5); ("", None) without a value."""

    kind: str
    value: str | int | float | bool | None


class Options(NamedTuple):
    """Checked parameters of a request.

    queue_timeout  seconds
    priority       1 is the highest, 0 the default
    """

    queue_timeout: float | None = None
    priority: int = 0
    insight: Insight | None = None


def at_most(name: str, values: Sized, limit: int) -> None:
    """Raises BadRequest for a longer list."""
    if len(values) > limit:
        raise BadRequest(f"{name} has {len(values)} entries, at most {limit} are allowed")


def options(parameters: Mapping[str, Parameter]) -> Options:
    """Check the parameters of a request. Raises BadRequest."""
    if not parameters:
        return Options()
    timeout, priority = None, 0
    for key, (kind, value) in parameters.items():
        _check(key, kind)
        if key == "timeout":
            timeout = _timeout(_integer(value))
        if key == "priority":
            priority = _integer(value)
            if priority < 0:
                raise BadRequest("invalid value for 'priority', expected value >= 0.")
    return Options(timeout, priority, _insight(parameters))


def check_tensor(name: str, keys: Iterable[str]) -> None:
    """Check the parameter names of an input or output. Raises Unsupported for shared memory."""
    for key in keys:
        if key.startswith("shared_memory"):
            raise Unsupported(f"tensor '{name}': shared memory is not supported; send the tensor in the request")


def classes(name: str, keys: Collection[str], read: Callable[[str], Parameter]) -> list[tuple[str, int]]:
    """The number of classes that a request wants of an output, if any. Raises BadRequest, Unsupported.

    keys  names of the output's parameters
    read  gives the value of one; it is called only for parameters that decide, because an output may have many
    """
    if CLASSES not in keys:
        check_tensor(name, keys)
        return []
    if SHARED_MEMORY in keys:
        raise BadRequest(f"output can't set both '{SHARED_MEMORY}' and '{CLASSES}'")
    kind, value = read(CLASSES)
    if kind != "int64_param":
        raise BadRequest(f"invalid value type for '{CLASSES}' parameter, expected int64_param")
    if _integer(value) <= 0:
        raise BadRequest(f"invalid value for '{CLASSES}' parameter, expected >= 0")
    return [(name, _integer(value))]


def no_data(model: str, name: str) -> BadRequest:
    """The error for an input without data."""
    return BadRequest(f"unable to find data for input tensor '{name}' for model '{model}' in request.")


def _check(key: str, kind: str) -> None:
    """Check that a parameter of this name exists, and that its value has an accepted kind. Raises BadRequest."""
    if key in PARAMETERS:
        allowed, words = PARAMETERS[key]
        if kind not in allowed:
            raise BadRequest(f"invalid value type for '{key}' parameter, expected {words}.")
    elif key.startswith(PREFIX):
        known = advice(key, (COVERAGE, TOP_K), what="parameters", prefix=PREFIX)
        raise BadRequest(f"parameter '{key[:80]}' is not known: {known}")
    elif key.startswith("triton_"):
        raise BadRequest(
            "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys "
            "starting with 'triton_' are allowed: triton_enable_empty_final_response"
        )
    elif not kind:
        raise BadRequest(
            f"invalid value type for '{key}' parameter, expected int64_param, bool_param, or string_param."
        )


def _insight(parameters: Mapping[str, Parameter]) -> Insight | None:
    if not (COVERAGE in parameters or TOP_K in parameters):
        return None
    top_k = _integer(parameters[TOP_K].value) if TOP_K in parameters else 0
    if not 0 <= top_k <= MOST_TOP_K:
        raise BadRequest(f"invalid value for '{TOP_K}', expected 0 to {MOST_TOP_K}, got {top_k}")
    coverage = COVERAGE in parameters and parameters[COVERAGE].value is True
    return Insight(coverage, top_k) if coverage or top_k else None


def _timeout(microseconds: int) -> float | None:
    if microseconds < 0:
        raise BadRequest("invalid value for 'timeout' parameter, expected microseconds >= 0.")
    return microseconds / 1e6 or None  # 0 is Triton's "no timeout"


def _integer(value: object) -> int:
    return value if isinstance(value, int) else 0
