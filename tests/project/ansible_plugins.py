"""Load the project's Ansible plugins and module utilities as plain Python modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parents[2] / "files" / "ansible"


def load(path: str) -> ModuleType:
    """Return the module in this file below files/ansible."""
    source = FOLDER / path
    spec = importlib.util.spec_from_file_location(source.stem, source)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[source.stem] = module
    spec.loader.exec_module(module)
    return module
