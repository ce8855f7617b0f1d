"""Messages of onnx_graph.proto; their types are in the stub beside this file."""

from kanserve.pb._pool import expose

globals().update(expose("onnx_graph.proto"))
