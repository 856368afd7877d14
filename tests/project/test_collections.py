"""The locked bundle of collections satisfies requirements.yml, so that nothing is downloaded from Galaxy."""

from __future__ import annotations

import json
import re
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

PROJECT = Path(__file__).resolve().parents[2]
REQUIRED = yaml.safe_load((PROJECT / "requirements.yml").read_text())["collections"]
BUNDLE = Path(str(distribution("ansible").locate_file("ansible_collections")))


@pytest.mark.parametrize("required", REQUIRED, ids=lambda required: str(required["name"]))
def test_the_bundle_satisfies_the_range(required: dict[str, str]) -> None:
    manifest = BUNDLE / required["name"].replace(".", "/") / "MANIFEST.json"
    version = json.loads(manifest.read_text())["collection_info"]["version"]
    assert version in SpecifierSet(required["version"])


def test_every_collection_that_is_used_is_required() -> None:
    used = set()
    for folder in ("playbooks", "roles", "molecule", "inventories"):
        for path in (PROJECT / folder).rglob("*.yml"):
            used |= set(
                re.findall(r"\b((?:ansible\.posix|community\.\w+|containers\.\w+))\.\w+", path.read_text())
            )
    assert used == {required["name"] for required in REQUIRED}
