"""Tests of `shared/custom_ops.py`."""

import onnx
from onnx import defs

from kanexport.shared import custom_ops


def test_every_operator_of_onnx_is_let_pass_or_left_out_for_a_reason() -> None:
    known = {schema.name for schema in defs.get_all_schemas() if schema.domain == ""}
    assert known <= custom_ops.ALLOWED | set(custom_ops.LEFT_OUT), "a new release of ONNX: say what each is"
    assert not custom_ops.ALLOWED & set(custom_ops.LEFT_OUT)
    inner = {
        schema.name
        for schema in defs.get_all_schemas()
        for attribute in schema.attributes.values()
        if attribute.type in (defs.OpSchema.AttrType.GRAPH, defs.OpSchema.AttrType.GRAPHS)
    }
    assert not inner & custom_ops.ALLOWED
    assert defs.onnx_opset_version() <= custom_ops.OPSETS[1]
    assert custom_ops.IR_VERSIONS[1] >= onnx.IR_VERSION
