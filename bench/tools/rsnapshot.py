"""rsnapshot with the settings that it comes with, one interval."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from bench.places import HOST, Place
from bench.tools.base import Argv, Tool, copy


class Rsnapshot(Tool):
    """`cp -al` of the newest, then rsync into the copy."""

    name = "rsnapshot"
    how = "`rsnapshot daily`, settings as shipped (`cp -al`, then `rsync -a --delete --relative`)"
    program: ClassVar[Argv] = ["rsnapshot", "version"]
    package = "rsnapshot"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._config = place.folder / "rsnapshot.conf"
        lines = [
            "config_version\t1.2", f"snapshot_root\t{place.disk}/", "no_create_root\t1",
            "cmd_cp\t/bin/cp", "cmd_rm\t/bin/rm", "cmd_rsync\t/usr/bin/rsync", "cmd_ssh\t/usr/bin/ssh",
            f"ssh_args\t-F {place.client.rig.top}/ssh_config", f"retain\tdaily\t{place.keep}",
            f"lockfile\t{place.folder}/rsnapshot.pid", f"backup\troot@{HOST}:/\thome/",
        ]  # fmt: skip
        self._config.write_text("\n".join(lines) + "\n")

    def backup(self) -> Argv:
        """Return the run that a timer would start; it lets go of what is too many."""
        return ["rsnapshot", "-c", str(self._config), "daily"]

    def expire(self) -> Argv:
        """Return how it deletes the oldest."""
        return ["rm", "-rf", f"{self.place.disk}/daily.{min(self.made, self.place.keep) - 1}"]

    def restore(self, to: Path, path: str = "") -> Argv:
        """Return a copy by hand."""
        return copy(self.place.disk / "daily.0/home", to, path)
