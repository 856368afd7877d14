"""The programs that are compared, each driven as its manual says; `ALL` has them by name."""

from __future__ import annotations

from bench.tools.backuppc import BackupPC, BackupPCPlain
from bench.tools.base import Tool
from bench.tools.borg import Borg
from bench.tools.ours import Full, Manifest
from bench.tools.rdiff_backup import RdiffBackup
from bench.tools.restic import Restic
from bench.tools.rsnapshot import Rsnapshot
from bench.tools.rsync import LinkDest, Mirror

ALL: dict[str, type[Tool]] = {
    tool.name: tool
    for tool in (
        Manifest, Full, Mirror, LinkDest, Rsnapshot, BackupPC, BackupPCPlain, RdiffBackup, Borg, Restic,
    )
}  # fmt: skip
