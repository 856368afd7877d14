"""What a shell offers for arguments: the names of jobs. Silent on errors, for nobody asked a question."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem


def targets(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer HOST, then HOST/VOLUME, then HOST/VOLUME/LABEL."""
    from flashback import config as configuration  # noqa: PLC0415 - only while a shell completes
    from flashback.errors import FlashbackError  # noqa: PLC0415

    path = context.find_root().params.get("path") or configuration.DEFAULT_PATH
    try:
        jobs = configuration.load(Path(path)).jobs
    except FlashbackError:
        return []
    depth = incomplete.count("/") + 1
    names = {"/".join(job.name.split("/")[:depth]) for job in jobs}
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
