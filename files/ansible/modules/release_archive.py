"""Ansible module: a Python package as one reproducible archive that bears the hash of what it holds."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import tomllib
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: release_archive
short_description: Pack a Python package for a plug
description:
  - The same sources make the same bytes, and the name of a release changes exactly when its content does.
  - The file RELEASE comes last, so that its presence shows that an unpacked release is complete.
options:
  project: {description: "Folder with pyproject.toml, src/ and bin/.", type: path, required: true}
  archives: {description: Folder for the archive., type: path, required: true}
author: The authors of this project
"""
EXAMPLES = r"""
- name: Pack the engine
  release_archive: {project: files/flashback, archives: /tmp}
"""
RETURN = r"""
archive: {description: Path of the archive., type: str, returned: success}
name: {description: "Name of the release: project, version, hash.", type: str, returned: success}
"""


def members(project: Path) -> list[tuple[str, int, bytes]]:
    """Return name, mode and content of every file of the release."""
    found = []
    for folder, prefix in ((project / "src", "lib"), (project / "bin", "bin")):
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder)
            if path.is_file() and not {"__pycache__", f"{project.name}.egg-info"} & set(relative.parts):
                mode = 0o755 if prefix == "bin" else 0o644
                found.append((f"{prefix}/{relative}", mode, path.read_bytes()))
    return found


def pack(name: str, files: list[tuple[str, int, bytes]]) -> bytes:
    """Return the archive."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for path, mode, content in [*files, ("RELEASE", 0o644, f"{name}\n".encode())]:
            member = tarfile.TarInfo(path)
            member.mode, member.size = mode, len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), mtime=0)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        {"project": {"type": "path", "required": True}, "archives": {"type": "path", "required": True}},
        supports_check_mode=True,
    )
    project = Path(module.params["project"])
    described = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    files = members(project)
    digest = hashlib.sha256(repr(files).encode()).hexdigest()[:12]
    name = f"{described['name']}-{described['version']}-{digest}"
    archive = Path(module.params["archives"]) / f"{name}.tar.gz"
    # The archive is a cache of the sources: making it changes nothing that an administrator would call a change.
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        unfinished = archive.with_suffix(".unfinished")
        unfinished.write_bytes(pack(name, files))
        unfinished.rename(archive)
    module.exit_json(changed=False, archive=str(archive), name=name)


if __name__ == "__main__":
    main()
