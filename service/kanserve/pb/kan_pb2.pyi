# mypy: disable-error-code="type-arg,no-untyped-def"
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EdgeEdit(_message.Message):
    __slots__ = ("layer", "source", "destination", "operation", "text", "numbers")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    layer: int
    source: int
    destination: int
    operation: str
    text: str
    numbers: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, layer: _Optional[int] = ..., source: _Optional[int] = ..., destination: _Optional[int] = ..., operation: _Optional[str] = ..., text: _Optional[str] = ..., numbers: _Optional[_Iterable[float]] = ...) -> None: ...

class EditEdgesRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "edits", "preview")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    EDITS_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    edits: _containers.RepeatedCompositeFieldContainer[EdgeEdit]
    preview: bool
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., edits: _Optional[_Iterable[_Union[EdgeEdit, _Mapping]]] = ..., preview: _Optional[bool] = ...) -> None: ...

class EditEdgesResponse(_message.Message):
    __slots__ = ("model_name", "model_version", "edit", "curves", "notes")
    class Curve(_message.Message):
        __slots__ = ("layer", "source", "destination", "x", "phi_before", "phi_after")
        LAYER_FIELD_NUMBER: _ClassVar[int]
        SOURCE_FIELD_NUMBER: _ClassVar[int]
        DESTINATION_FIELD_NUMBER: _ClassVar[int]
        X_FIELD_NUMBER: _ClassVar[int]
        PHI_BEFORE_FIELD_NUMBER: _ClassVar[int]
        PHI_AFTER_FIELD_NUMBER: _ClassVar[int]
        layer: int
        source: int
        destination: int
        x: _containers.RepeatedScalarFieldContainer[float]
        phi_before: _containers.RepeatedScalarFieldContainer[float]
        phi_after: _containers.RepeatedScalarFieldContainer[float]
        def __init__(self, layer: _Optional[int] = ..., source: _Optional[int] = ..., destination: _Optional[int] = ..., x: _Optional[_Iterable[float]] = ..., phi_before: _Optional[_Iterable[float]] = ..., phi_after: _Optional[_Iterable[float]] = ...) -> None: ...
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    EDIT_FIELD_NUMBER: _ClassVar[int]
    CURVES_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    edit: Edit
    curves: _containers.RepeatedCompositeFieldContainer[EditEdgesResponse.Curve]
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., edit: _Optional[_Union[Edit, _Mapping]] = ..., curves: _Optional[_Iterable[_Union[EditEdgesResponse.Curve, _Mapping]]] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class PromoteModelRequest(_message.Message):
    __slots__ = ("model_name", "model_version")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ...) -> None: ...

class RollbackModelRequest(_message.Message):
    __slots__ = ("model_name",)
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    def __init__(self, model_name: _Optional[str] = ...) -> None: ...

class VersionChoice(_message.Message):
    __slots__ = ("model_name", "model_version", "previous_version")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_VERSION_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    previous_version: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., previous_version: _Optional[str] = ...) -> None: ...

class ShadowModelRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "share", "tolerance", "stop")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    share: float
    tolerance: float
    stop: bool
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., share: _Optional[float] = ..., tolerance: _Optional[float] = ..., stop: _Optional[bool] = ...) -> None: ...

class ShadowReport(_message.Message):
    __slots__ = ("model_name", "model_version", "baseline_version", "running", "share", "tolerance", "requests", "rows", "rows_out_of_tolerance", "requests_dropped", "requests_failed", "largest_difference", "rows_with_other_class")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    BASELINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ROWS_OUT_OF_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_DROPPED_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FAILED_FIELD_NUMBER: _ClassVar[int]
    LARGEST_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    ROWS_WITH_OTHER_CLASS_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    baseline_version: str
    running: bool
    share: float
    tolerance: float
    requests: int
    rows: int
    rows_out_of_tolerance: int
    requests_dropped: int
    requests_failed: int
    largest_difference: float
    rows_with_other_class: int
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., baseline_version: _Optional[str] = ..., running: _Optional[bool] = ..., share: _Optional[float] = ..., tolerance: _Optional[float] = ..., requests: _Optional[int] = ..., rows: _Optional[int] = ..., rows_out_of_tolerance: _Optional[int] = ..., requests_dropped: _Optional[int] = ..., requests_failed: _Optional[int] = ..., largest_difference: _Optional[float] = ..., rows_with_other_class: _Optional[int] = ...) -> None: ...

class DescribeModelRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "page_bytes", "page_token")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    page_bytes: int
    page_token: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., page_bytes: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class DescribeModelResponse(_message.Message):
    __slots__ = ("model_name", "model_version", "digest", "family", "edge_class", "input", "output", "max_batch_size", "layers", "source", "verification", "notes", "limits", "inputs", "outputs", "features", "classes", "units", "description", "out_of_range_policy", "next_page_token", "input_scaler", "output_scaler", "intervals", "certificate", "edit", "editable", "error_bars")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    EDGE_CLASS_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    VERIFICATION_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_RANGE_POLICY_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    INPUT_SCALER_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SCALER_FIELD_NUMBER: _ClassVar[int]
    INTERVALS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    EDIT_FIELD_NUMBER: _ClassVar[int]
    EDITABLE_FIELD_NUMBER: _ClassVar[int]
    ERROR_BARS_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    digest: str
    family: str
    edge_class: str
    input: TensorInfo
    output: TensorInfo
    max_batch_size: int
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    source: Source
    verification: Verification
    notes: _containers.RepeatedScalarFieldContainer[str]
    limits: QueryLimits
    inputs: _containers.RepeatedCompositeFieldContainer[TensorInfo]
    outputs: _containers.RepeatedCompositeFieldContainer[TensorInfo]
    features: _containers.RepeatedScalarFieldContainer[str]
    classes: _containers.RepeatedScalarFieldContainer[str]
    units: _containers.RepeatedScalarFieldContainer[str]
    description: str
    out_of_range_policy: str
    next_page_token: str
    input_scaler: Scaler
    output_scaler: Scaler
    intervals: Intervals
    certificate: Certificate
    edit: Edit
    editable: bool
    error_bars: ErrorBars
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., digest: _Optional[str] = ..., family: _Optional[str] = ..., edge_class: _Optional[str] = ..., input: _Optional[_Union[TensorInfo, _Mapping]] = ..., output: _Optional[_Union[TensorInfo, _Mapping]] = ..., max_batch_size: _Optional[int] = ..., layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ..., source: _Optional[_Union[Source, _Mapping]] = ..., verification: _Optional[_Union[Verification, _Mapping]] = ..., notes: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[QueryLimits, _Mapping]] = ..., inputs: _Optional[_Iterable[_Union[TensorInfo, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[TensorInfo, _Mapping]]] = ..., features: _Optional[_Iterable[str]] = ..., classes: _Optional[_Iterable[str]] = ..., units: _Optional[_Iterable[str]] = ..., description: _Optional[str] = ..., out_of_range_policy: _Optional[str] = ..., next_page_token: _Optional[str] = ..., input_scaler: _Optional[_Union[Scaler, _Mapping]] = ..., output_scaler: _Optional[_Union[Scaler, _Mapping]] = ..., intervals: _Optional[_Union[Intervals, _Mapping]] = ..., certificate: _Optional[_Union[Certificate, _Mapping]] = ..., edit: _Optional[_Union[Edit, _Mapping]] = ..., editable: _Optional[bool] = ..., error_bars: _Optional[_Union[ErrorBars, _Mapping]] = ...) -> None: ...

class GetCertificatesRequest(_message.Message):
    __slots__ = ("model_name", "model_version")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ...) -> None: ...

class GetCertificatesResponse(_message.Message):
    __slots__ = ("model_name", "model_version", "digest", "certificates")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    digest: str
    certificates: _containers.RepeatedCompositeFieldContainer[Certificate]
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., digest: _Optional[str] = ..., certificates: _Optional[_Iterable[_Union[Certificate, _Mapping]]] = ...) -> None: ...

class Certificate(_message.Message):
    __slots__ = ("method", "box", "sha256", "low", "high", "outputs", "effects", "assumptions", "boxes", "budget", "seconds", "range_check")
    class Output(_message.Message):
        __slots__ = ("name", "low", "high", "found_low", "found_high", "float32_slack", "at_low", "at_high")
        NAME_FIELD_NUMBER: _ClassVar[int]
        LOW_FIELD_NUMBER: _ClassVar[int]
        HIGH_FIELD_NUMBER: _ClassVar[int]
        FOUND_LOW_FIELD_NUMBER: _ClassVar[int]
        FOUND_HIGH_FIELD_NUMBER: _ClassVar[int]
        FLOAT32_SLACK_FIELD_NUMBER: _ClassVar[int]
        AT_LOW_FIELD_NUMBER: _ClassVar[int]
        AT_HIGH_FIELD_NUMBER: _ClassVar[int]
        name: str
        low: float
        high: float
        found_low: float
        found_high: float
        float32_slack: float
        at_low: _containers.RepeatedScalarFieldContainer[float]
        at_high: _containers.RepeatedScalarFieldContainer[float]
        def __init__(self, name: _Optional[str] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., found_low: _Optional[float] = ..., found_high: _Optional[float] = ..., float32_slack: _Optional[float] = ..., at_low: _Optional[_Iterable[float]] = ..., at_high: _Optional[_Iterable[float]] = ...) -> None: ...
    class Step(_message.Message):
        __slots__ = ("row", "to")
        ROW_FIELD_NUMBER: _ClassVar[int]
        TO_FIELD_NUMBER: _ClassVar[int]
        row: _containers.RepeatedScalarFieldContainer[float]
        to: float
        def __init__(self, row: _Optional[_Iterable[float]] = ..., to: _Optional[float] = ...) -> None: ...
    class Effect(_message.Message):
        __slots__ = ("input", "output", "direction", "lipschitz", "rises", "falls")
        INPUT_FIELD_NUMBER: _ClassVar[int]
        OUTPUT_FIELD_NUMBER: _ClassVar[int]
        DIRECTION_FIELD_NUMBER: _ClassVar[int]
        LIPSCHITZ_FIELD_NUMBER: _ClassVar[int]
        RISES_FIELD_NUMBER: _ClassVar[int]
        FALLS_FIELD_NUMBER: _ClassVar[int]
        input: int
        output: int
        direction: str
        lipschitz: float
        rises: Certificate.Step
        falls: Certificate.Step
        def __init__(self, input: _Optional[int] = ..., output: _Optional[int] = ..., direction: _Optional[str] = ..., lipschitz: _Optional[float] = ..., rises: _Optional[_Union[Certificate.Step, _Mapping]] = ..., falls: _Optional[_Union[Certificate.Step, _Mapping]] = ...) -> None: ...
    METHOD_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    EFFECTS_FIELD_NUMBER: _ClassVar[int]
    ASSUMPTIONS_FIELD_NUMBER: _ClassVar[int]
    BOXES_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    RANGE_CHECK_FIELD_NUMBER: _ClassVar[int]
    method: str
    box: str
    sha256: str
    low: _containers.RepeatedScalarFieldContainer[float]
    high: _containers.RepeatedScalarFieldContainer[float]
    outputs: _containers.RepeatedCompositeFieldContainer[Certificate.Output]
    effects: _containers.RepeatedCompositeFieldContainer[Certificate.Effect]
    assumptions: _containers.RepeatedScalarFieldContainer[str]
    boxes: int
    budget: float
    seconds: float
    range_check: bool
    def __init__(self, method: _Optional[str] = ..., box: _Optional[str] = ..., sha256: _Optional[str] = ..., low: _Optional[_Iterable[float]] = ..., high: _Optional[_Iterable[float]] = ..., outputs: _Optional[_Iterable[_Union[Certificate.Output, _Mapping]]] = ..., effects: _Optional[_Iterable[_Union[Certificate.Effect, _Mapping]]] = ..., assumptions: _Optional[_Iterable[str]] = ..., boxes: _Optional[int] = ..., budget: _Optional[float] = ..., seconds: _Optional[float] = ..., range_check: _Optional[bool] = ...) -> None: ...

class Edit(_message.Message):
    __slots__ = ("parent_version", "parent_sha256", "author", "released", "edges", "rows", "rows_from", "largest", "mean", "changed")
    class Edge(_message.Message):
        __slots__ = ("layer", "source", "destination", "operation", "form", "error")
        LAYER_FIELD_NUMBER: _ClassVar[int]
        SOURCE_FIELD_NUMBER: _ClassVar[int]
        DESTINATION_FIELD_NUMBER: _ClassVar[int]
        OPERATION_FIELD_NUMBER: _ClassVar[int]
        FORM_FIELD_NUMBER: _ClassVar[int]
        ERROR_FIELD_NUMBER: _ClassVar[int]
        layer: int
        source: int
        destination: int
        operation: str
        form: str
        error: float
        def __init__(self, layer: _Optional[int] = ..., source: _Optional[int] = ..., destination: _Optional[int] = ..., operation: _Optional[str] = ..., form: _Optional[str] = ..., error: _Optional[float] = ...) -> None: ...
    PARENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    PARENT_SHA256_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FROM_FIELD_NUMBER: _ClassVar[int]
    LARGEST_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    parent_version: str
    parent_sha256: str
    author: str
    released: bool
    edges: _containers.RepeatedCompositeFieldContainer[Edit.Edge]
    rows: int
    rows_from: str
    largest: _containers.RepeatedScalarFieldContainer[float]
    mean: _containers.RepeatedScalarFieldContainer[float]
    changed: int
    def __init__(self, parent_version: _Optional[str] = ..., parent_sha256: _Optional[str] = ..., author: _Optional[str] = ..., released: _Optional[bool] = ..., edges: _Optional[_Iterable[_Union[Edit.Edge, _Mapping]]] = ..., rows: _Optional[int] = ..., rows_from: _Optional[str] = ..., largest: _Optional[_Iterable[float]] = ..., mean: _Optional[_Iterable[float]] = ..., changed: _Optional[int] = ...) -> None: ...

class Intervals(_message.Message):
    __slots__ = ("method", "coverage", "name", "sha256", "rows", "fitted", "outputs", "scores", "threshold", "size", "checked")
    class Output(_message.Message):
        __slots__ = ("quantile", "points", "spreads", "width")
        QUANTILE_FIELD_NUMBER: _ClassVar[int]
        POINTS_FIELD_NUMBER: _ClassVar[int]
        SPREADS_FIELD_NUMBER: _ClassVar[int]
        WIDTH_FIELD_NUMBER: _ClassVar[int]
        quantile: float
        points: _containers.RepeatedScalarFieldContainer[float]
        spreads: _containers.RepeatedScalarFieldContainer[float]
        width: float
        def __init__(self, quantile: _Optional[float] = ..., points: _Optional[_Iterable[float]] = ..., spreads: _Optional[_Iterable[float]] = ..., width: _Optional[float] = ...) -> None: ...
    METHOD_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    FITTED_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CHECKED_FIELD_NUMBER: _ClassVar[int]
    method: str
    coverage: float
    name: str
    sha256: str
    rows: int
    fitted: int
    outputs: _containers.RepeatedCompositeFieldContainer[Intervals.Output]
    scores: str
    threshold: float
    size: float
    checked: float
    def __init__(self, method: _Optional[str] = ..., coverage: _Optional[float] = ..., name: _Optional[str] = ..., sha256: _Optional[str] = ..., rows: _Optional[int] = ..., fitted: _Optional[int] = ..., outputs: _Optional[_Iterable[_Union[Intervals.Output, _Mapping]]] = ..., scores: _Optional[str] = ..., threshold: _Optional[float] = ..., size: _Optional[float] = ..., checked: _Optional[float] = ...) -> None: ...

class ErrorBars(_message.Message):
    __slots__ = ("assumption", "factor", "name", "sha256", "rows", "rows_outside", "checked", "missed", "needed", "median")
    ASSUMPTION_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ROWS_OUTSIDE_FIELD_NUMBER: _ClassVar[int]
    CHECKED_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    NEEDED_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_FIELD_NUMBER: _ClassVar[int]
    assumption: str
    factor: float
    name: str
    sha256: str
    rows: int
    rows_outside: int
    checked: int
    missed: float
    needed: float
    median: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, assumption: _Optional[str] = ..., factor: _Optional[float] = ..., name: _Optional[str] = ..., sha256: _Optional[str] = ..., rows: _Optional[int] = ..., rows_outside: _Optional[int] = ..., checked: _Optional[int] = ..., missed: _Optional[float] = ..., needed: _Optional[float] = ..., median: _Optional[_Iterable[float]] = ...) -> None: ...

class Scaler(_message.Message):
    __slots__ = ("kind", "offset", "scale", "range", "name", "sha256")
    KIND_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    kind: str
    offset: bytes
    scale: bytes
    range: _containers.RepeatedScalarFieldContainer[float]
    name: str
    sha256: str
    def __init__(self, kind: _Optional[str] = ..., offset: _Optional[bytes] = ..., scale: _Optional[bytes] = ..., range: _Optional[_Iterable[float]] = ..., name: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class TensorInfo(_message.Message):
    __slots__ = ("name", "datatype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ("index", "sources", "destinations", "bases", "pre_steps", "post_steps", "mask", "bias", "symbolic", "active_edges", "name", "edge_class", "positions")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    DESTINATIONS_FIELD_NUMBER: _ClassVar[int]
    BASES_FIELD_NUMBER: _ClassVar[int]
    PRE_STEPS_FIELD_NUMBER: _ClassVar[int]
    POST_STEPS_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    SYMBOLIC_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_EDGES_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    EDGE_CLASS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    index: int
    sources: int
    destinations: int
    bases: _containers.RepeatedCompositeFieldContainer[Basis]
    pre_steps: _containers.RepeatedCompositeFieldContainer[NodeStep]
    post_steps: _containers.RepeatedCompositeFieldContainer[NodeStep]
    mask: bytes
    bias: bytes
    symbolic: _containers.RepeatedCompositeFieldContainer[SymbolicEdge]
    active_edges: int
    name: str
    edge_class: str
    positions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, index: _Optional[int] = ..., sources: _Optional[int] = ..., destinations: _Optional[int] = ..., bases: _Optional[_Iterable[_Union[Basis, _Mapping]]] = ..., pre_steps: _Optional[_Iterable[_Union[NodeStep, _Mapping]]] = ..., post_steps: _Optional[_Iterable[_Union[NodeStep, _Mapping]]] = ..., mask: _Optional[bytes] = ..., bias: _Optional[bytes] = ..., symbolic: _Optional[_Iterable[_Union[SymbolicEdge, _Mapping]]] = ..., active_edges: _Optional[int] = ..., name: _Optional[str] = ..., edge_class: _Optional[str] = ..., positions: _Optional[_Iterable[int]] = ...) -> None: ...

class Basis(_message.Message):
    __slots__ = ("kind", "functions", "parameters", "knots", "knot_rows", "per_edge", "pre_steps")
    class ParametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    KNOTS_FIELD_NUMBER: _ClassVar[int]
    KNOT_ROWS_FIELD_NUMBER: _ClassVar[int]
    PER_EDGE_FIELD_NUMBER: _ClassVar[int]
    PRE_STEPS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    functions: int
    parameters: _containers.ScalarMap[str, str]
    knots: bytes
    knot_rows: int
    per_edge: bool
    pre_steps: _containers.RepeatedCompositeFieldContainer[NodeStep]
    def __init__(self, kind: _Optional[str] = ..., functions: _Optional[int] = ..., parameters: _Optional[_Mapping[str, str]] = ..., knots: _Optional[bytes] = ..., knot_rows: _Optional[int] = ..., per_edge: _Optional[bool] = ..., pre_steps: _Optional[_Iterable[_Union[NodeStep, _Mapping]]] = ...) -> None: ...

class NodeStep(_message.Message):
    __slots__ = ("kind", "indices", "scale", "bias", "epsilon", "function")
    KIND_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    kind: str
    indices: _containers.RepeatedScalarFieldContainer[int]
    scale: bytes
    bias: bytes
    epsilon: float
    function: str
    def __init__(self, kind: _Optional[str] = ..., indices: _Optional[_Iterable[int]] = ..., scale: _Optional[bytes] = ..., bias: _Optional[bytes] = ..., epsilon: _Optional[float] = ..., function: _Optional[str] = ...) -> None: ...

class SymbolicEdge(_message.Message):
    __slots__ = ("source", "destination", "function", "a", "b", "c", "d", "mask", "expression")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    A_FIELD_NUMBER: _ClassVar[int]
    B_FIELD_NUMBER: _ClassVar[int]
    C_FIELD_NUMBER: _ClassVar[int]
    D_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    EXPRESSION_FIELD_NUMBER: _ClassVar[int]
    source: int
    destination: int
    function: str
    a: float
    b: float
    c: float
    d: float
    mask: float
    expression: str
    def __init__(self, source: _Optional[int] = ..., destination: _Optional[int] = ..., function: _Optional[str] = ..., a: _Optional[float] = ..., b: _Optional[float] = ..., c: _Optional[float] = ..., d: _Optional[float] = ..., mask: _Optional[float] = ..., expression: _Optional[str] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("files", "exporter_version", "options_given", "options_assumed", "options_decided", "alternatives")
    class File(_message.Message):
        __slots__ = ("name", "sha256")
        NAME_FIELD_NUMBER: _ClassVar[int]
        SHA256_FIELD_NUMBER: _ClassVar[int]
        name: str
        sha256: str
        def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...
    class OptionsGivenEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class OptionsAssumedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class OptionsDecidedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class AlternativesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    FILES_FIELD_NUMBER: _ClassVar[int]
    EXPORTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_GIVEN_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_ASSUMED_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_DECIDED_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[Source.File]
    exporter_version: str
    options_given: _containers.ScalarMap[str, str]
    options_assumed: _containers.ScalarMap[str, str]
    options_decided: _containers.ScalarMap[str, str]
    alternatives: _containers.ScalarMap[str, str]
    def __init__(self, files: _Optional[_Iterable[_Union[Source.File, _Mapping]]] = ..., exporter_version: _Optional[str] = ..., options_given: _Optional[_Mapping[str, str]] = ..., options_assumed: _Optional[_Mapping[str, str]] = ..., options_decided: _Optional[_Mapping[str, str]] = ..., alternatives: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Verification(_message.Message):
    __slots__ = ("zones", "outputs_tolerance", "edges_tolerance", "basis", "expected_outputs", "claim")
    class Zone(_message.Message):
        __slots__ = ("name", "rows", "outputs_max_abs", "outputs_max_rel", "edges_max_abs", "edges_max_rel", "worst_edge", "worst_output")
        NAME_FIELD_NUMBER: _ClassVar[int]
        ROWS_FIELD_NUMBER: _ClassVar[int]
        OUTPUTS_MAX_ABS_FIELD_NUMBER: _ClassVar[int]
        OUTPUTS_MAX_REL_FIELD_NUMBER: _ClassVar[int]
        EDGES_MAX_ABS_FIELD_NUMBER: _ClassVar[int]
        EDGES_MAX_REL_FIELD_NUMBER: _ClassVar[int]
        WORST_EDGE_FIELD_NUMBER: _ClassVar[int]
        WORST_OUTPUT_FIELD_NUMBER: _ClassVar[int]
        name: str
        rows: int
        outputs_max_abs: float
        outputs_max_rel: float
        edges_max_abs: float
        edges_max_rel: float
        worst_edge: str
        worst_output: str
        def __init__(self, name: _Optional[str] = ..., rows: _Optional[int] = ..., outputs_max_abs: _Optional[float] = ..., outputs_max_rel: _Optional[float] = ..., edges_max_abs: _Optional[float] = ..., edges_max_rel: _Optional[float] = ..., worst_edge: _Optional[str] = ..., worst_output: _Optional[str] = ...) -> None: ...
    ZONES_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    EDGES_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    zones: _containers.RepeatedCompositeFieldContainer[Verification.Zone]
    outputs_tolerance: float
    edges_tolerance: float
    basis: str
    expected_outputs: _containers.RepeatedCompositeFieldContainer[ParityCheck]
    claim: str
    def __init__(self, zones: _Optional[_Iterable[_Union[Verification.Zone, _Mapping]]] = ..., outputs_tolerance: _Optional[float] = ..., edges_tolerance: _Optional[float] = ..., basis: _Optional[str] = ..., expected_outputs: _Optional[_Iterable[_Union[ParityCheck, _Mapping]]] = ..., claim: _Optional[str] = ...) -> None: ...

class ParityCheck(_message.Message):
    __slots__ = ("name", "sha256", "rows", "max_abs", "max_rel", "tolerance")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_FIELD_NUMBER: _ClassVar[int]
    MAX_REL_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    rows: int
    max_abs: float
    max_rel: float
    tolerance: float
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ..., rows: _Optional[int] = ..., max_abs: _Optional[float] = ..., max_rel: _Optional[float] = ..., tolerance: _Optional[float] = ...) -> None: ...

class QueryLimits(_message.Message):
    __slots__ = ("max_rows", "max_response_bytes")
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_RESPONSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_rows: int
    max_response_bytes: int
    def __init__(self, max_rows: _Optional[int] = ..., max_response_bytes: _Optional[int] = ...) -> None: ...

class QueryEdgesRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "id", "rows", "row_count", "layers", "sources", "destinations", "top_k", "layer_names", "inputs", "per_row", "min_magnitude", "residual", "nodes", "path_from", "path_to", "reductions", "quantiles", "bins", "estimate_only")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    DESTINATIONS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    LAYER_NAMES_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    PER_ROW_FIELD_NUMBER: _ClassVar[int]
    MIN_MAGNITUDE_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    PATH_FROM_FIELD_NUMBER: _ClassVar[int]
    PATH_TO_FIELD_NUMBER: _ClassVar[int]
    REDUCTIONS_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    BINS_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    id: str
    rows: bytes
    row_count: int
    layers: _containers.RepeatedScalarFieldContainer[int]
    sources: _containers.RepeatedScalarFieldContainer[int]
    destinations: _containers.RepeatedScalarFieldContainer[int]
    top_k: int
    layer_names: _containers.RepeatedScalarFieldContainer[str]
    inputs: _containers.RepeatedCompositeFieldContainer[InputRows]
    per_row: bool
    min_magnitude: float
    residual: bool
    nodes: bool
    path_from: int
    path_to: int
    reductions: _containers.RepeatedScalarFieldContainer[str]
    quantiles: _containers.RepeatedScalarFieldContainer[float]
    bins: int
    estimate_only: bool
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., id: _Optional[str] = ..., rows: _Optional[bytes] = ..., row_count: _Optional[int] = ..., layers: _Optional[_Iterable[int]] = ..., sources: _Optional[_Iterable[int]] = ..., destinations: _Optional[_Iterable[int]] = ..., top_k: _Optional[int] = ..., layer_names: _Optional[_Iterable[str]] = ..., inputs: _Optional[_Iterable[_Union[InputRows, _Mapping]]] = ..., per_row: _Optional[bool] = ..., min_magnitude: _Optional[float] = ..., residual: _Optional[bool] = ..., nodes: _Optional[bool] = ..., path_from: _Optional[int] = ..., path_to: _Optional[int] = ..., reductions: _Optional[_Iterable[str]] = ..., quantiles: _Optional[_Iterable[float]] = ..., bins: _Optional[int] = ..., estimate_only: _Optional[bool] = ...) -> None: ...

class InputRows(_message.Message):
    __slots__ = ("name", "rows")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    name: str
    rows: bytes
    def __init__(self, name: _Optional[str] = ..., rows: _Optional[bytes] = ...) -> None: ...

class QueryEdgesResponse(_message.Message):
    __slots__ = ("model_name", "model_version", "digest", "id", "layers", "estimate")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    digest: str
    id: str
    layers: _containers.RepeatedCompositeFieldContainer[LayerEdges]
    estimate: EdgeEstimate
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., digest: _Optional[str] = ..., id: _Optional[str] = ..., layers: _Optional[_Iterable[_Union[LayerEdges, _Mapping]]] = ..., estimate: _Optional[_Union[EdgeEstimate, _Mapping]] = ...) -> None: ...

class EdgeEstimate(_message.Message):
    __slots__ = ("response_bytes", "max_response_bytes", "evaluations", "max_evaluations", "within_limits")
    RESPONSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_RESPONSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    WITHIN_LIMITS_FIELD_NUMBER: _ClassVar[int]
    response_bytes: int
    max_response_bytes: int
    evaluations: int
    max_evaluations: int
    within_limits: bool
    def __init__(self, response_bytes: _Optional[int] = ..., max_response_bytes: _Optional[int] = ..., evaluations: _Optional[int] = ..., max_evaluations: _Optional[int] = ..., within_limits: _Optional[bool] = ...) -> None: ...

class LayerEdges(_message.Message):
    __slots__ = ("layer", "shape", "sources", "destinations", "values", "per_row_sources", "per_row_destinations", "residual", "residual_destinations", "nodes", "node_count", "reductions", "first_row")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    DESTINATIONS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    PER_ROW_SOURCES_FIELD_NUMBER: _ClassVar[int]
    PER_ROW_DESTINATIONS_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_DESTINATIONS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    NODE_COUNT_FIELD_NUMBER: _ClassVar[int]
    REDUCTIONS_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    layer: int
    shape: _containers.RepeatedScalarFieldContainer[int]
    sources: _containers.RepeatedScalarFieldContainer[int]
    destinations: _containers.RepeatedScalarFieldContainer[int]
    values: bytes
    per_row_sources: bytes
    per_row_destinations: bytes
    residual: bytes
    residual_destinations: _containers.RepeatedScalarFieldContainer[int]
    nodes: bytes
    node_count: int
    reductions: _containers.RepeatedCompositeFieldContainer[Reduction]
    first_row: int
    def __init__(self, layer: _Optional[int] = ..., shape: _Optional[_Iterable[int]] = ..., sources: _Optional[_Iterable[int]] = ..., destinations: _Optional[_Iterable[int]] = ..., values: _Optional[bytes] = ..., per_row_sources: _Optional[bytes] = ..., per_row_destinations: _Optional[bytes] = ..., residual: _Optional[bytes] = ..., residual_destinations: _Optional[_Iterable[int]] = ..., nodes: _Optional[bytes] = ..., node_count: _Optional[int] = ..., reductions: _Optional[_Iterable[_Union[Reduction, _Mapping]]] = ..., first_row: _Optional[int] = ...) -> None: ...

class Reduction(_message.Message):
    __slots__ = ("kind", "shape", "values")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    kind: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    values: bytes
    def __init__(self, kind: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., values: _Optional[bytes] = ...) -> None: ...

class GetCurvesRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "layers", "layer_names", "sources", "destinations", "points", "low", "high", "derivative", "parts", "extrema")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    LAYER_NAMES_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    DESTINATIONS_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    DERIVATIVE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    EXTREMA_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    layers: _containers.RepeatedScalarFieldContainer[int]
    layer_names: _containers.RepeatedScalarFieldContainer[str]
    sources: _containers.RepeatedScalarFieldContainer[int]
    destinations: _containers.RepeatedScalarFieldContainer[int]
    points: int
    low: float
    high: float
    derivative: bool
    parts: bool
    extrema: bool
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., layers: _Optional[_Iterable[int]] = ..., layer_names: _Optional[_Iterable[str]] = ..., sources: _Optional[_Iterable[int]] = ..., destinations: _Optional[_Iterable[int]] = ..., points: _Optional[int] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., derivative: _Optional[bool] = ..., parts: _Optional[bool] = ..., extrema: _Optional[bool] = ...) -> None: ...

class CurveBlock(_message.Message):
    __slots__ = ("model_name", "model_version", "digest", "layer", "sources", "destinations", "points", "x", "phi", "derivative", "domains", "parts", "extrema_x", "extrema")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    DESTINATIONS_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    X_FIELD_NUMBER: _ClassVar[int]
    PHI_FIELD_NUMBER: _ClassVar[int]
    DERIVATIVE_FIELD_NUMBER: _ClassVar[int]
    DOMAINS_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    EXTREMA_X_FIELD_NUMBER: _ClassVar[int]
    EXTREMA_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    digest: str
    layer: int
    sources: _containers.RepeatedScalarFieldContainer[int]
    destinations: _containers.RepeatedScalarFieldContainer[int]
    points: int
    x: bytes
    phi: bytes
    derivative: bytes
    domains: _containers.RepeatedScalarFieldContainer[str]
    parts: _containers.RepeatedCompositeFieldContainer[CurvePart]
    extrema_x: bytes
    extrema: bytes
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., digest: _Optional[str] = ..., layer: _Optional[int] = ..., sources: _Optional[_Iterable[int]] = ..., destinations: _Optional[_Iterable[int]] = ..., points: _Optional[int] = ..., x: _Optional[bytes] = ..., phi: _Optional[bytes] = ..., derivative: _Optional[bytes] = ..., domains: _Optional[_Iterable[str]] = ..., parts: _Optional[_Iterable[_Union[CurvePart, _Mapping]]] = ..., extrema_x: _Optional[bytes] = ..., extrema: _Optional[bytes] = ...) -> None: ...

class CurvePart(_message.Message):
    __slots__ = ("kind", "phi")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PHI_FIELD_NUMBER: _ClassVar[int]
    kind: str
    phi: bytes
    def __init__(self, kind: _Optional[str] = ..., phi: _Optional[bytes] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "id", "rows", "row_count", "inputs", "reference", "reference_rows", "reference_count", "outputs", "method", "path_top_k")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_ROWS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_COUNT_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PATH_TOP_K_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    id: str
    rows: bytes
    row_count: int
    inputs: _containers.RepeatedCompositeFieldContainer[InputRows]
    reference: str
    reference_rows: bytes
    reference_count: int
    outputs: _containers.RepeatedScalarFieldContainer[int]
    method: str
    path_top_k: int
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., id: _Optional[str] = ..., rows: _Optional[bytes] = ..., row_count: _Optional[int] = ..., inputs: _Optional[_Iterable[_Union[InputRows, _Mapping]]] = ..., reference: _Optional[str] = ..., reference_rows: _Optional[bytes] = ..., reference_count: _Optional[int] = ..., outputs: _Optional[_Iterable[int]] = ..., method: _Optional[str] = ..., path_top_k: _Optional[int] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("model_name", "model_version", "digest", "id", "method", "reference", "layer", "outputs", "nodes", "contributions", "base", "predictions", "completeness_error", "notes", "nodes_are_inputs", "path", "intervals", "error_bars", "out_of_range")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    COMPLETENESS_ERROR_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    NODES_ARE_INPUTS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    INTERVALS_FIELD_NUMBER: _ClassVar[int]
    ERROR_BARS_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_RANGE_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    digest: str
    id: str
    method: str
    reference: str
    layer: int
    outputs: _containers.RepeatedScalarFieldContainer[int]
    nodes: int
    contributions: bytes
    base: bytes
    predictions: bytes
    completeness_error: bytes
    notes: _containers.RepeatedScalarFieldContainer[str]
    nodes_are_inputs: bool
    path: _containers.RepeatedCompositeFieldContainer[LayerPath]
    intervals: RowIntervals
    error_bars: RowErrorBars
    out_of_range: bytes
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., digest: _Optional[str] = ..., id: _Optional[str] = ..., method: _Optional[str] = ..., reference: _Optional[str] = ..., layer: _Optional[int] = ..., outputs: _Optional[_Iterable[int]] = ..., nodes: _Optional[int] = ..., contributions: _Optional[bytes] = ..., base: _Optional[bytes] = ..., predictions: _Optional[bytes] = ..., completeness_error: _Optional[bytes] = ..., notes: _Optional[_Iterable[str]] = ..., nodes_are_inputs: _Optional[bool] = ..., path: _Optional[_Iterable[_Union[LayerPath, _Mapping]]] = ..., intervals: _Optional[_Union[RowIntervals, _Mapping]] = ..., error_bars: _Optional[_Union[RowErrorBars, _Mapping]] = ..., out_of_range: _Optional[bytes] = ...) -> None: ...

class RowErrorBars(_message.Message):
    __slots__ = ("numbers", "bars", "assumption", "contradicted", "note")
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    BARS_FIELD_NUMBER: _ClassVar[int]
    ASSUMPTION_FIELD_NUMBER: _ClassVar[int]
    CONTRADICTED_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    numbers: int
    bars: bytes
    assumption: str
    contradicted: bool
    note: str
    def __init__(self, numbers: _Optional[int] = ..., bars: _Optional[bytes] = ..., assumption: _Optional[str] = ..., contradicted: _Optional[bool] = ..., note: _Optional[str] = ...) -> None: ...

class RowIntervals(_message.Message):
    __slots__ = ("method", "coverage", "numbers", "bounds", "sets", "reliable", "note")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    BOUNDS_FIELD_NUMBER: _ClassVar[int]
    SETS_FIELD_NUMBER: _ClassVar[int]
    RELIABLE_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    method: str
    coverage: float
    numbers: int
    bounds: bytes
    sets: bytes
    reliable: bool
    note: str
    def __init__(self, method: _Optional[str] = ..., coverage: _Optional[float] = ..., numbers: _Optional[int] = ..., bounds: _Optional[bytes] = ..., sets: _Optional[bytes] = ..., reliable: _Optional[bool] = ..., note: _Optional[str] = ...) -> None: ...

class LayerPath(_message.Message):
    __slots__ = ("layer", "outputs", "edges", "sources", "destinations", "values", "residual")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    DESTINATIONS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    layer: int
    outputs: int
    edges: int
    sources: bytes
    destinations: bytes
    values: bytes
    residual: bytes
    def __init__(self, layer: _Optional[int] = ..., outputs: _Optional[int] = ..., edges: _Optional[int] = ..., sources: _Optional[bytes] = ..., destinations: _Optional[bytes] = ..., values: _Optional[bytes] = ..., residual: _Optional[bytes] = ...) -> None: ...

class EdgeScoresRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "id", "rows", "row_count", "inputs", "source")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    id: str
    rows: bytes
    row_count: int
    inputs: _containers.RepeatedCompositeFieldContainer[InputRows]
    source: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., id: _Optional[str] = ..., rows: _Optional[bytes] = ..., row_count: _Optional[int] = ..., inputs: _Optional[_Iterable[_Union[InputRows, _Mapping]]] = ..., source: _Optional[str] = ...) -> None: ...

class EdgeScoresResponse(_message.Message):
    __slots__ = ("model_name", "model_version", "digest", "id", "source", "row_count", "layers", "notes")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    digest: str
    id: str
    source: str
    row_count: int
    layers: _containers.RepeatedCompositeFieldContainer[LayerScores]
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., digest: _Optional[str] = ..., id: _Optional[str] = ..., source: _Optional[str] = ..., row_count: _Optional[int] = ..., layers: _Optional[_Iterable[_Union[LayerScores, _Mapping]]] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class LayerScores(_message.Message):
    __slots__ = ("layer", "sources", "destinations", "edges", "std", "nodes")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    DESTINATIONS_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    layer: int
    sources: int
    destinations: int
    edges: bytes
    std: bytes
    nodes: bytes
    def __init__(self, layer: _Optional[int] = ..., sources: _Optional[int] = ..., destinations: _Optional[int] = ..., edges: _Optional[bytes] = ..., std: _Optional[bytes] = ..., nodes: _Optional[bytes] = ...) -> None: ...

class GetStatisticsRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "id", "rows", "row_count", "inputs", "source")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    id: str
    rows: bytes
    row_count: int
    inputs: _containers.RepeatedCompositeFieldContainer[InputRows]
    source: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., id: _Optional[str] = ..., rows: _Optional[bytes] = ..., row_count: _Optional[int] = ..., inputs: _Optional[_Iterable[_Union[InputRows, _Mapping]]] = ..., source: _Optional[str] = ...) -> None: ...

class GetStatisticsResponse(_message.Message):
    __slots__ = ("model_name", "model_version", "digest", "id", "source", "row_count", "baseline", "baseline_rows", "nodes", "rows_seen", "seconds", "since", "processes", "classes")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    BASELINE_ROWS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    ROWS_SEEN_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    digest: str
    id: str
    source: str
    row_count: int
    baseline: str
    baseline_rows: int
    nodes: _containers.RepeatedCompositeFieldContainer[NodeStatistics]
    rows_seen: int
    seconds: float
    since: float
    processes: int
    classes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., digest: _Optional[str] = ..., id: _Optional[str] = ..., source: _Optional[str] = ..., row_count: _Optional[int] = ..., baseline: _Optional[str] = ..., baseline_rows: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[NodeStatistics, _Mapping]]] = ..., rows_seen: _Optional[int] = ..., seconds: _Optional[float] = ..., since: _Optional[float] = ..., processes: _Optional[int] = ..., classes: _Optional[_Iterable[int]] = ...) -> None: ...

class NodeStatistics(_message.Message):
    __slots__ = ("layer", "psi", "js", "wasserstein", "psi_threshold", "out_of_range", "baseline_out_of_range", "nonfinite", "bounds", "bound_counts", "counts", "zones", "origins", "mean", "std", "min", "max", "baseline_counts")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    PSI_FIELD_NUMBER: _ClassVar[int]
    JS_FIELD_NUMBER: _ClassVar[int]
    WASSERSTEIN_FIELD_NUMBER: _ClassVar[int]
    PSI_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_RANGE_FIELD_NUMBER: _ClassVar[int]
    BASELINE_OUT_OF_RANGE_FIELD_NUMBER: _ClassVar[int]
    NONFINITE_FIELD_NUMBER: _ClassVar[int]
    BOUNDS_FIELD_NUMBER: _ClassVar[int]
    BOUND_COUNTS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    ZONES_FIELD_NUMBER: _ClassVar[int]
    ORIGINS_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    BASELINE_COUNTS_FIELD_NUMBER: _ClassVar[int]
    layer: int
    psi: bytes
    js: bytes
    wasserstein: bytes
    psi_threshold: bytes
    out_of_range: bytes
    baseline_out_of_range: bytes
    nonfinite: bytes
    bounds: bytes
    bound_counts: _containers.RepeatedScalarFieldContainer[int]
    counts: bytes
    zones: bytes
    origins: _containers.RepeatedScalarFieldContainer[str]
    mean: bytes
    std: bytes
    min: bytes
    max: bytes
    baseline_counts: bytes
    def __init__(self, layer: _Optional[int] = ..., psi: _Optional[bytes] = ..., js: _Optional[bytes] = ..., wasserstein: _Optional[bytes] = ..., psi_threshold: _Optional[bytes] = ..., out_of_range: _Optional[bytes] = ..., baseline_out_of_range: _Optional[bytes] = ..., nonfinite: _Optional[bytes] = ..., bounds: _Optional[bytes] = ..., bound_counts: _Optional[_Iterable[int]] = ..., counts: _Optional[bytes] = ..., zones: _Optional[bytes] = ..., origins: _Optional[_Iterable[str]] = ..., mean: _Optional[bytes] = ..., std: _Optional[bytes] = ..., min: _Optional[bytes] = ..., max: _Optional[bytes] = ..., baseline_counts: _Optional[bytes] = ...) -> None: ...

class WatchStatisticsRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "id", "source", "interval", "updates")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    id: str
    source: str
    interval: float
    updates: int
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., id: _Optional[str] = ..., source: _Optional[str] = ..., interval: _Optional[float] = ..., updates: _Optional[int] = ...) -> None: ...

class StatisticsUpdate(_message.Message):
    __slots__ = ("statistics", "end_reason")
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    END_REASON_FIELD_NUMBER: _ClassVar[int]
    statistics: GetStatisticsResponse
    end_reason: str
    def __init__(self, statistics: _Optional[_Union[GetStatisticsResponse, _Mapping]] = ..., end_reason: _Optional[str] = ...) -> None: ...

class ResetStatisticsRequest(_message.Message):
    __slots__ = ("model_name", "model_version")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ...) -> None: ...

class ResetStatisticsResponse(_message.Message):
    __slots__ = ("model_name", "model_version", "since")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    since: float
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., since: _Optional[float] = ...) -> None: ...
