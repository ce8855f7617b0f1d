"""Messages of model_config.proto; their types are in the stub beside this file."""

from kanserve.pb._pool import expose

globals().update(expose("model_config.proto"))
