"""Names of a package that are imported at first use, so that importing it is cheap."""

import importlib
import sys
from collections.abc import Mapping
from typing import Any


def load(package: str, modules: Mapping[str, str], name: str) -> Any:
    """What a package's `__getattr__` returns.

    Args:
        package: its `__name__`.
        modules: the module that defines each name; a name of itself is a module.
        name: what is asked for.

    Raises:
        AttributeError: there is no such name.
    """
    if name not in modules:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    module = importlib.import_module(modules[name])
    is_module = modules[name] == f"{package}.{name}"
    value = module if is_module else getattr(module, name)
    setattr(sys.modules[package], name, value)
    return value
