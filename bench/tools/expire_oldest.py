"""Delete the oldest snapshot of the only job of a configuration, through the engine's own store."""

from __future__ import annotations

import sys
from pathlib import Path

from flashback import config, disk
from flashback.process import no_pulse
from flashback.store import open_store

loaded = config.load(Path(sys.argv[1]))
job = loaded.jobs[0]
with disk.locked(loaded):
    store = open_store(loaded.data_dir)
    store.expire(job, [store.snapshots(job)[0].taken], no_pulse)
