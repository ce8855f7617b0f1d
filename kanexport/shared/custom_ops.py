"""Custom operators of `kanserve-kernel`, and the allowlist of ONNX operators that compute tensors from tensors.

The server's structural screen refuses any other, and the exporter says so before it writes one. Standard library only.
A new release of ONNX brings new names; `tests/kanserve/sandbox/test_graph_screen.py` holds both tables against it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from pathlib import Path

OPSETS = (7, 28)  # the oldest and the newest version of the domain
IR_VERSIONS = (3, 14)

_NAMES = """
    Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
    BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike CausalConvWithState Ceil
    Celu CenterCropPad Clip Col2Im Compress Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh
    CumProd CumSum DFT DeformConv DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal
    Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool
    GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish
    Hardmax Identity InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual
    LinearAttention Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxRoiPool MaxUnpool Mean
    MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul Neg NegativeLogLikelihoodLoss NonMaxSuppression NonZero
    Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1
    ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
    Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round STFT Scatter ScatterElements ScatterND Selu Shape
    Shrink Sigmoid Sign Sin Sinh Size Slice Softmax SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split Sqrt
    Squeeze Sub Sum SwiGLU Swish Tan Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze
    Upsample Where Xor
    """
ALLOWED = frozenset(_NAMES.split())

CONTROL = "decides at run time which operators run, and how often"
RANDOM = "returns different values each time"
SEQUENCE = "works on lists of tensors"
TEXT = "works on text"
# And why not the others.
LEFT_OUT = {
    **dict.fromkeys(("If", "Loop", "Scan", "SequenceMap"), CONTROL),
    **dict.fromkeys(("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"), RANDOM),
    **dict.fromkeys(("RandomUniform", "RandomUniformLike"), RANDOM),
    **dict.fromkeys(("ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty"), SEQUENCE),
    **dict.fromkeys(("SequenceErase", "SequenceInsert", "SequenceLength", "SplitToSequence"), SEQUENCE),
    **dict.fromkeys(("Optional", "OptionalGetElement", "OptionalHasElement"), SEQUENCE),
    **dict.fromkeys(("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"), TEXT),
    "ImageDecoder": "decodes images",
}


def why_not(domain: str, name: str) -> str:
    """The reason why a graph may not contain this operator, or ""."""
    if domain not in ("", "ai.onnx"):
        return f"is in the operator domain {domain[:80]!r}, expected the domain of ONNX"
    return "" if name in ALLOWED else LEFT_OUT.get(name, "is not in the list of known ONNX operators")


DOMAIN, DOMAIN_VERSION = "kanserve", 1
SPLINES, BASIS, EDGES, NORM, SPLINE_EDGES = OPERATORS = (
    *("SplineLayer", "BasisLayer", "EdgeLayer", "NormLayer"),
    "SplineEdges",
)
KERNEL_FILE = "model.kernel.onnx"
STRONGEST = "k"  # input [1, 1] of SplineEdges: the number of edges of largest magnitude; 0 for all edges
MOST_STRONGEST = 4096  # the largest number in it, as in kernel/src/edges.h
PACKAGE = "kanserve_kernel"
DEGREES = (1, 2, 3)  # of its splines
NARROWEST, WIDEST = 1e-10, 1e10  # cells that it takes, as kernel/src/prepare.cpp refuses others
LARGEST = 128 * 2**20  # bytes of coefficients; a server does not try the operator for models that are much larger
HOW_TO_INSTALL = "run `make setup` in a checkout of kanserve"


def edges_file(portable: str) -> str:
    """The name of the edge graph by SplineEdges next to the `portable` edge graph of a layer."""
    return f"{portable.removesuffix('.onnx')}.kernel.onnx"


def library() -> str:
    """The path of the library of the operator. Empty if it is not installed, or was built for another machine."""
    try:
        path = str(Path(importlib.import_module(PACKAGE).LIBRARY))
    except ImportError:
        return ""
    return path if _loads(path) else ""


@functools.cache
def _loads(path: str) -> bool:
    try:
        ctypes.CDLL(path)
    except OSError:
        return False
    return True
