"""Empty modules for what published code imports and the measured part of it does not use."""

import importlib.util
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path


def stand_in(modules: Mapping[str, tuple[str, ...]]) -> None:
    """For those that are not installed. modules: name → names that are imported from it."""
    for name, attributes in modules.items():
        if importlib.util.find_spec(name) is None:
            # With a spec, since other libraries look whether there is one.
            module = importlib.util.module_from_spec(ModuleSpec(name, None))
            for attribute in attributes:
                setattr(module, attribute, type(attribute, (), {}))
            sys.modules[name] = module


def package(name: str, folder: Path) -> None:
    """Make a package importable without running its ``__init__.py``, which imports all of it."""
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    sys.modules[name] = importlib.util.module_from_spec(spec)
