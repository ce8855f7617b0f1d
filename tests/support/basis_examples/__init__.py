"""Examples of each basis for the tests, one module per module of `kanexport/bases`, found by its name."""

import importlib
import pkgutil

from kanexport import bases
from kanexport.bases import Basis


def names() -> list[str]:
    """The modules of bases."""
    return sorted(module.name for module in pkgutil.iter_modules(bases.__path__))


def examples(name: str) -> list[Basis]:
    """Small instances of one basis, for 3 sources or any number, odd ones among them."""
    return list(importlib.import_module(f"{__name__}.{name}").examples())
