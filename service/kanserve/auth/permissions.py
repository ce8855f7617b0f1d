"""Roles, and the required role of every method and every route. The server rejects all calls that are not listed.

`grpc_api/interceptor` looks a method or route up once, when it wraps it. A test compares this table with all methods
and routes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from kanserve.errors import UNKNOWN


class Role(enum.StrEnum):
    """Permission of a caller. `infer` and `interpret` include `read`, and `admin` includes all roles."""

    READ = "read"  # names, states, inputs and outputs, statistics
    INFER = "infer"  # run models
    INTERPRET = "interpret"  # edge values and forms, which reveal the model
    ADMIN = "admin"  # load, unload, switch


INCLUDES: dict[Role, frozenset[Role]] = {
    Role.READ: frozenset({Role.READ}),
    Role.INFER: frozenset({Role.INFER, Role.READ}),
    Role.INTERPRET: frozenset({Role.INTERPRET, Role.READ}),
    Role.ADMIN: frozenset(Role),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Caller, by its name in the token file.

    roles    all roles, with those that they include
    known    False for a caller without a credential
    expires  seconds since 1970, or None
    mark     the credential as in the file, so that another one under the same name is another caller
    """

    name: str
    roles: frozenset[Role]
    known: bool = True
    expires: float | None = None
    mark: str = field(default="", repr=False)


NOBODY = Principal("", frozenset(), known=False)
EVERYONE = Principal("", frozenset(Role))  # of a server without credentials


def including(roles: frozenset[Role]) -> frozenset[Role]:
    """The roles, and the roles that they include."""
    return frozenset().union(*(INCLUDES[role] for role in roles))


ANYONE = None  # health, since orchestrators present no credential; the files of the web UI, which have no data
Need = Role | None
INFERENCE, KAN, HEALTH = "inference.GRPCInferenceService", "kanserve.v1.KanService", "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
MODELS = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
KSERVE_V1 = "/v1/models/{name}"
KANS = ("/v1/kan/models/{name}", "/v1/kan/models/{name}/versions/{version}")

_INFERENCE: dict[Need, tuple[str, ...]] = {
    ANYONE: ("ServerLive", "ServerReady"),  # as Health/Check reports it; KServe's probes call these
    Role.READ: (
        *("ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex"),
    ),
    Role.INFER: ("ModelInfer", "ModelStreamInfer"),
    Role.ADMIN: (
        *("RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting", "LogSettings"),
        *(
            f"{where}SharedMemory{verb}"
            for where in ("System", "Cuda")
            for verb in ("Status", "Register", "Unregister")
        ),
    ),
}
_INTERPRETATION = (
    *("DescribeModel", "QueryEdges", "StreamEdges", "GetCurves", "Explain", "EdgeScores"),
    *("GetStatistics", "WatchStatistics", "GetCertificates"),
)
_CONTROL = ("PromoteModel", "RollbackModel", "ShadowModel", "ResetStatistics", "EditEdges")
# The health of a model or a service: only the message names it, so `grpc_api/services.py` requires this role.
NAMED_HEALTH = Role.READ
_ROUTES: dict[Need, tuple[tuple[str, str], ...]] = {
    ANYONE: (
        *(("GET", route) for route in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")),
        *(("GET", route) for route in ("/", "/ui", "/ui/{rest:path}")),
    ),
    Role.READ: (
        *(("GET", route) for route in ("/metrics", "/v2", "/v2/models/stats")),
        *(("GET", f"{model}{rest}") for model in MODELS for rest in ("", "/ready", "/config", "/stats")),
        *(("POST", f"/v2/repository/{rest}") for rest in ("index", "{repository}/index")),
        ("GET", KSERVE_V1),
        ("POST", "/v1/kan/operations"),
        (UNKNOWN, UNKNOWN),  # unknown routes: a client without a credential does not learn that
    ),
    Role.INFER: (
        *(("POST", f"{model}/infer") for model in MODELS),
        ("POST", f"{KSERVE_V1}:predict"),
        *((UNKNOWN, f"{MODELS[0]}/{rest}") for rest in ("generate", "generate_stream")),
    ),
    Role.INTERPRET: (
        ("GET", "/v1/kan/overview"),
        ("POST", f"{KSERVE_V1}:explain"),
        *(
            ("GET", f"{model}{rest}")
            for model in KANS
            for rest in ("", "/certificates", "/watch", "/rows", "/report", "/statistics/history")
        ),
        *(
            ("POST", f"{model}/{what}")
            for model in KANS
            for what in ("edges", "curves", "explain", "scores", "statistics", "coverage")
        ),
    ),
    Role.ADMIN: (
        *(("POST", f"{model}/{what}") for model in KANS for what in ("statistics/reset", "edits")),
        *(
            ("POST", f"/v2/repository/{where}models/{{name}}/{verb}")
            for where in ("", "{repository}/")
            for verb in ("load", "unload")
        ),
        *((UNKNOWN, f"/v2/{where}sharedmemory/{{rest:path}}") for where in ("system", "cuda")),
        *((UNKNOWN, route) for route in ("/v2/trace/setting", f"{MODELS[0]}/trace/setting", "/v2/logging")),
    ),
}


# gRPC's as service/method, HTTP's as "VERB /route": as in the access log.
NEEDS: Mapping[str, Need] = {
    **{f"{INFERENCE}/{name}": role for role, names in _INFERENCE.items() for name in names},
    **{f"{KAN}/{name}": Role.INTERPRET for name in _INTERPRETATION},
    **{f"{KAN}/{name}": Role.ADMIN for name in _CONTROL},
    **{f"{HEALTH}/{name}": ANYONE for name in ("Check", "Watch")},  # gRPC's balancers send no credential
    **{f"{name}/ServerReflectionInfo": Role.READ for name in REFLECTION},
    f"{UNKNOWN}/{UNKNOWN}": Role.READ,
    **{f"{verb} {route}": need for need, routes in _ROUTES.items() for verb, route in routes},
}
