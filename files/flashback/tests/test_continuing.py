"""A file whose transfer was interrupted is continued, however the end came, on every kind of storage."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .disks import KINDS, mounted
from .rig import Rig, tree, until

SIZE = 8_000_000
LIMITED = "{period: 1d, keep: 3, bandwidth_limit: 4M}"
FREE = "{period: 1d, keep: 3}"


@pytest.fixture(params=KINDS)
def plug(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Rig]:
    with mounted(request.param, rig.top):
        yield rig


def arrived(plug: Rig, film: Path) -> bool:
    """Return whether a third of the large file is there, under whatever name rsync gives it."""
    place = SIZE // 3
    wanted = film.read_bytes()[place : place + 64]
    for folder, _, files in os.walk(plug.label / "incoming"):
        for name in files:
            try:
                with (Path(folder) / name).open("rb") as file:
                    file.seek(place)
                    if file.read(64) == wanted:
                        return True
            except FileNotFoundError:  # noqa: PERF203 - rsync renames while this looks
                continue
    return False


def interrupt(plug: Rig, film: Path, number: signal.Signals = signal.SIGTERM) -> None:
    """Begin a backup and end it when a third of the large file is there."""
    plug.configure(LIMITED)
    child = plug.start("backup", "laptop")
    until(lambda: arrived(plug, film))
    if number is signal.SIGKILL:
        # As a power cut would: nobody gets to tidy up.
        for pid in plug.rsyncs():
            os.kill(int(pid), signal.SIGKILL)
    child.send_signal(number)
    child.wait()
    until(lambda: not plug.rsyncs())
    plug.configure(FREE)


def received(plug: Rig) -> int:
    runs = json.loads(plug.call("history", "--limit", "1", "--json").stdout)
    assert runs[0]["outcome"] == "SUCCEEDED"
    return int(runs[0]["bytes_transferred"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_new_large_file_is_continued(plug: Rig, number: signal.Signals) -> None:
    (plug.source / "deep").mkdir()
    film = plug.source / "deep/film"
    film.write_bytes(random.Random(1).randbytes(SIZE))
    interrupt(plug, film, number)
    snapshot = plug.back_up()
    assert received(plug) < SIZE * 0.75
    assert tree(snapshot) == tree(plug.source)
    assert [path.name for path in plug.label.iterdir()] == [snapshot.name]


def test_a_changed_large_file_is_continued_and_the_older_version_stays(plug: Rig) -> None:
    film = plug.source / "film"
    film.write_bytes(random.Random(1).randbytes(SIZE))
    first = plug.back_up()
    before = tree(first)
    film.write_bytes(random.Random(2).randbytes(SIZE))
    interrupt(plug, film)
    last = plug.back_up()
    assert received(plug) < SIZE * 0.75
    assert tree(first) == before
    assert tree(last) == tree(plug.source)


def test_a_file_that_changed_meanwhile_is_not_mixed_up(plug: Rig) -> None:
    film = plug.source / "film"
    film.write_bytes(random.Random(1).randbytes(SIZE))
    interrupt(plug, film)
    film.write_bytes(random.Random(3).randbytes(SIZE // 2))
    assert tree(plug.back_up()) == tree(plug.source)


def test_what_vanished_after_an_interruption_leaves_nothing(plug: Rig) -> None:
    (plug.source / "small").write_text("stays")
    film = plug.source / "film"
    film.write_bytes(random.Random(1).randbytes(SIZE))
    os.utime(plug.source, ns=(10**18, 10**18 + 123_456_789))
    interrupt(plug, film)
    film.unlink()
    os.utime(plug.source, ns=(10**18, 10**18 + 123_456_789))
    snapshot = plug.back_up()
    assert tree(snapshot) == tree(plug.source)
    assert [path.name for path in plug.label.iterdir()] == [snapshot.name]


def test_an_accepted_part_holds_no_half_file(plug: Rig) -> None:
    film = plug.source / "film"
    film.write_bytes(random.Random(1).randbytes(SIZE))
    (plug.source / "small").write_text("stays")
    interrupt(plug, film)
    plug.configure("{period: 1d, keep: 3, accept_partial: true}")
    assert tree(plug.back_up()) == tree(plug.source)
