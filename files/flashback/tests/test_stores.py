"""One contract, two kinds of storage, three real file systems: the same tests run over all of them."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from flashback import changes, process, transfer
from flashback.errors import FlashbackError, UsageError
from flashback.model import Config, Job, Snapshot
from flashback.store import Fill, Store, open_store
from flashback.store import btrfs as btrfs_store

from .disks import KINDS, mounted
from .rig import tree

pulse = process.no_pulse
BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Bench:
    """A disk, a store on it, and a source that is backed up by the real rsync."""

    def __init__(self, disk: Path, source: Path) -> None:
        self.disk, self.source = disk, source
        self.store: Store = open_store(disk)
        self.job = Job("laptop", "home", "daily", str(source), (), local=True)
        self.config = Config(Path("/none"), disk)
        self.days = 0

    def now(self) -> datetime:
        return BEGIN + timedelta(days=self.days)

    def fill(self) -> Fill:
        fill = self.store.begin(self.job, pulse)
        done = transfer.fill(
            self.config, self.job, "", fill.destination,
            pulse=pulse, on_progress=lambda _: None, log=lambda _: None,
        )  # fmt: skip
        assert done.verdict.complete, done
        return fill

    def back_up(self) -> Snapshot:
        self.days += 1
        return self.store.commit(self.fill(), self.now, pulse)

    @property
    def label(self) -> Path:
        return self.disk / "laptop/home/daily"


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    (tmp_path / "source").mkdir()
    with mounted(
        request.param,
        tmp_path,
        options="loop,noatime,user_subvol_rm_allowed"[: None if request.param == "btrfs" else 12],
    ) as disk:
        yield Bench(disk, tmp_path / "source")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(("incoming.", "kept")))


def days(found: list[Snapshot]) -> list[int]:
    return [(each.taken - BEGIN).days for each in found]


def some_files(top: Path, seed: int = 1, count: int = 30) -> None:
    numbers = random.Random(seed)
    for number in range(count):
        folder = top / f"dir{number % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"file{number}").write_bytes(numbers.randbytes(numbers.randrange(5000)))


def test_the_store_is_chosen_from_the_file_system(bench: Bench, request: pytest.FixtureRequest) -> None:
    wanted = "btrfs" if "btrfs" in request.node.name else "hardlink"
    assert bench.store.kind == wanted


def test_random_edits_never_show_in_older_snapshots(bench: Bench) -> None:
    some_files(bench.source)
    large = bench.source / "large"
    large.write_bytes(random.Random(5).randbytes(btrfs_store.LARGE + 12345))
    numbers = random.Random(7)
    made: list[tuple[Snapshot, object]] = []
    for _ in range(8):
        snapshot = bench.back_up()
        assert tree(snapshot.path) == tree(bench.source)
        made.append((snapshot, tree(snapshot.path)))
        for older, before in made:
            assert tree(older.path) == before, older.name
        edit(bench.source, numbers)


def edit(top: Path, numbers: random.Random) -> None:
    """Do to a tree what people and programs do, the traps included."""
    files = [path for path in sorted(top.rglob("*")) if path.is_file() and not path.is_symlink()]
    for path in numbers.sample(files, min(8, len(files))):
        if not path.exists():
            continue
        what = numbers.randrange(9)
        if what == 0:
            path.chmod(numbers.choice([0o600, 0o644, 0o755]))
        elif what == 1:
            os.chown(path, numbers.randrange(2000), numbers.randrange(2000))
        elif what == 2:
            path.write_bytes(numbers.randbytes(max(1, path.stat().st_size)))
        elif what == 3:
            with path.open("r+b") as file:
                file.seek(numbers.randrange(max(1, path.stat().st_size)))
                file.write(b"changed in the middle")
        elif what == 4:
            path.with_name(f"link{numbers.randrange(10**6)}").hardlink_to(path)
        elif what == 5:
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content + b"parted")
        elif what == 6:
            path.unlink()
            path.mkdir()
            (path / "inside").write_text("was a file")
        elif what == 7:
            os.setxattr(path, "user.mood", numbers.randbytes(3))
            subprocess.run(["setfacl", "-m", f"u:{numbers.randrange(3000)}:r", str(path)], check=True)
        else:
            path.rename(path.with_name(f"moved{numbers.randrange(10**6)}"))
    os.utime(
        numbers.choice([top, *[path for path in top.rglob("*") if path.is_dir()]]),
        (1e9, 1e9 + numbers.randrange(1000)),
    )


def test_attributes_alone_change_in_the_new_snapshot_only(bench: Bench) -> None:
    path = bench.source / "a"
    path.write_text("1")
    first = bench.back_up()
    before = tree(first.path)
    path.chmod(0o600)
    os.chown(path, 7, 8)
    os.setxattr(path, "user.new", b"1")
    second = bench.back_up()
    assert tree(first.path) == before
    assert tree(second.path) == tree(bench.source)


def test_a_large_file_whose_two_names_were_parted_keeps_both_contents(bench: Bench) -> None:
    one, two = bench.source / "one", bench.source / "two"
    content = random.Random(1).randbytes(btrfs_store.LARGE + 1000)
    one.write_bytes(content)
    two.hardlink_to(one)
    first = bench.back_up()
    two.unlink()
    two.write_bytes(content[::-1])
    with one.open("r+b") as file:
        file.write(b"in the first only")
    second = bench.back_up()
    assert (second.path / "two").read_bytes() == content[::-1]
    assert (second.path / "one").read_bytes() == one.read_bytes()
    assert (first.path / "one").read_bytes() == content
    assert (first.path / "two").stat().st_ino == (first.path / "one").stat().st_ino


def test_two_large_files_that_became_one_are_one(bench: Bench) -> None:
    one, two = bench.source / "one [1]", bench.source / "two"
    one.write_bytes(random.Random(1).randbytes(btrfs_store.LARGE + 1000))
    two.write_bytes(random.Random(2).randbytes(btrfs_store.LARGE + 1000))
    first = bench.back_up()
    before = tree(first.path)
    two.unlink()
    two.hardlink_to(one)
    with one.open("r+b") as file:
        file.write(b"in both")
    second = bench.back_up()
    assert tree(second.path) == tree(bench.source)
    assert tree(first.path) == before


def test_an_attempt_that_fails_costs_no_old_copy_and_blocks_no_later_one(bench: Bench) -> None:
    some_files(bench.source)
    kept = [bench.back_up() for _ in range(2)]
    before = [tree(each.path) for each in kept]
    for seed in range(3, 6):
        some_files(bench.source, seed)
        bench.fill()
        assert bench.store.snapshots(bench.job) == kept
        assert [tree(each.path) for each in kept] == before
    assert tree(bench.back_up().path) == tree(bench.source)


def test_folders_keep_their_times_whatever_changes_in_them(bench: Bench) -> None:
    some_files(bench.source)
    second = 1_500_000_000_000_000_000
    for place, path in enumerate([*sorted(bench.source.iterdir()), bench.source]):
        os.utime(path, ns=(second, second + 123_456_789 + place))
    bench.back_up()
    (bench.source / "dir0/file0").unlink()
    (bench.source / "dir1/fresh").write_text("1")
    (bench.source / "dir2").rename(bench.source / "moved")
    for place, path in enumerate([*sorted(bench.source.iterdir()), bench.source]):
        os.utime(path, ns=(second, second + 987_654_321 + place))
    bench.fill()
    (bench.source / "moved/late").write_text("after an interruption")
    os.utime(bench.source / "moved", ns=(second, second + 5))
    assert tree(bench.back_up().path) == tree(bench.source)


def test_rsync_lists_while_it_works_and_never_holds_the_whole_tree(bench: Bench) -> None:
    # rsync looks a thousand files ahead.
    for folder in range(40):
        (bench.source / f"{folder}").mkdir()
        for number in range(50):
            (bench.source / f"{folder}/{number}").write_text("1")
    for _ in range(2):
        fill = bench.store.begin(bench.job, pulse)
        for options in fill.destination.passes:
            said: list[str] = []
            argv = transfer.command(bench.job, "", fill.destination.target, options)
            process.run(argv, cwd=fill.destination.where, on_output=said.append)
        # rsync says ir-chk as long as it goes on listing, and to-chk from then on.
        assert "ir-chk=" in "".join(said)
        bench.days += 1
        bench.store.commit(fill, bench.now, pulse)
        for path in bench.source.glob("*/0"):
            path.write_text("anew")


def test_unchanged_data_is_stored_once(bench: Bench) -> None:
    (bench.source / "film").write_bytes(random.Random(1).randbytes(60_000_000))
    bench.back_up()
    subprocess.run(["sync", "-f", str(bench.disk)], check=True)
    before = os.statvfs(bench.disk).f_bfree
    for _ in range(3):
        bench.back_up()
    subprocess.run(["sync", "-f", str(bench.disk)], check=True)
    room = os.statvfs(bench.disk)
    assert (before - room.f_bfree) * room.f_frsize < 10_000_000


def test_an_interrupted_fill_is_continued_and_nothing_finished_is_sent_again(bench: Bench) -> None:
    some_files(bench.source)
    bench.back_up()
    some_files(bench.source, seed=2)
    fill = bench.fill()
    bench.store.checkpoint(fill, pulse)
    again = bench.store.begin(bench.job, pulse)
    assert again.continued
    done = transfer.fill(
        bench.config, bench.job, "", again.destination,
        pulse=pulse, on_progress=lambda _: None, log=lambda _: None,
    )  # fmt: skip
    assert done.changed == 0
    bench.days += 1
    snapshot = bench.store.commit(again, bench.now, pulse)
    assert tree(snapshot.path) == tree(bench.source)
    assert len([name for name in names(bench.label) if name.startswith("20")]) == 2


def test_files_since_the_last_checkpoint_are_not_trusted(bench: Bench) -> None:
    (bench.source / "good").write_text("good")
    fill = bench.fill()
    hollow = fill.tree / "good"
    status = hollow.stat()
    hollow.write_bytes(b"\0\0\0\0")
    os.utime(hollow, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (bench.back_up().path / "good").read_text() == "good"


def test_a_suspect_snapshot_counts_only_when_accepted(bench: Bench) -> None:
    some_files(bench.source)
    first = bench.back_up()
    bench.days += 1
    suspect = bench.store.commit(bench.fill(), bench.now, pulse, suspect=True)
    assert suspect.path.name.startswith("suspect-")
    assert bench.store.snapshots(bench.job) == [first]
    assert bench.store.suspects(bench.job) == [suspect]
    later = bench.back_up()
    accepted = bench.store.accept(bench.job, suspect, pulse)
    assert bench.store.snapshots(bench.job) == [first, accepted, later]
    assert tree(accepted.path) == tree(bench.source)
    assert bench.store.suspects(bench.job) == []


def test_a_rejected_snapshot_is_gone(bench: Bench) -> None:
    some_files(bench.source)
    bench.days += 1
    suspect = bench.store.commit(bench.fill(), bench.now, pulse, suspect=True)
    bench.store.reject(bench.job, suspect, pulse)
    assert names(bench.label) == []


def test_expiry_leaves_the_others_whole(bench: Bench) -> None:
    some_files(bench.source)
    made = [bench.back_up() for _ in range(4)]
    kept = {each.name: tree(each.path) for each in made[2:]}
    bench.store.expire(bench.job, [each.taken for each in made[:2]], pulse)
    assert names(bench.label) == sorted(kept)
    assert {each.name: tree(each.path) for each in bench.store.snapshots(bench.job)} == kept


def test_what_an_interrupted_expiry_left_is_swept(bench: Bench) -> None:
    some_files(bench.source)
    first, second = bench.back_up(), bench.back_up()
    first.path.rename(first.path.with_name(f"expired-{first.name}"))
    assert bench.store.snapshots(bench.job) == [second]
    bench.store.sweep(bench.job, pulse)
    assert names(bench.label) == [second.name]


def test_a_copy_costs_no_transfer_and_is_the_same(bench: Bench) -> None:
    some_files(bench.source)
    (bench.source / "dir0/link").hardlink_to(bench.source / "dir0/file0")
    daily = bench.back_up()
    weekly = replace(bench.job, label="weekly", copy_of="daily")
    for _ in range(2):
        # b13: a left-over `incoming` of an interrupted copy is not nested into.
        fill = bench.store.begin_copy(weekly, daily, pulse)
    copy = bench.store.commit(fill, lambda: daily.taken, pulse)
    assert copy.taken == daily.taken
    assert tree(copy.path) == tree(bench.source)


def test_marks_are_kept_with_their_notes(bench: Bench) -> None:
    some_files(bench.source)
    first, second = bench.back_up(), bench.back_up()
    bench.store.note(bench.job, first.taken, "before the move")
    bench.store.note(bench.job, second.taken, "")
    assert bench.store.notes(bench.job) == {first.taken: "before the move", second.taken: ""}
    bench.store.note(bench.job, first.taken, None)
    assert open_store(bench.disk).notes(bench.job) == {second.taken: ""}
    with pytest.raises(UsageError, match="has no snapshot"):
        bench.store.note(bench.job, BEGIN, "")
    (bench.label / "kept.json").write_text("{")
    with pytest.raises(FlashbackError, match="cannot be read"):
        bench.store.notes(bench.job)


def test_a_damaged_file_is_mended_or_taken_away(bench: Bench) -> None:
    some_files(bench.source)
    snapshot = bench.back_up()
    before = tree(snapshot.path)
    healed = bench.disk / ".flashback/healed"
    subprocess.run(["cp", "-a", str(bench.source / "dir0/file0"), str(healed)], check=True)
    bench.store.mend(snapshot, b"dir0/file0", None)
    assert not (snapshot.path / "dir0/file0").exists()
    bench.store.mend(snapshot, b"dir0/file0", healed)
    assert tree(snapshot.path) == before


def test_a_snapshot_from_the_future_gets_another_name(bench: Bench) -> None:
    some_files(bench.source)
    snapshot = bench.back_up()
    renamed = bench.store.rename(bench.job, snapshot, BEGIN)
    assert bench.store.snapshots(bench.job) == [renamed]
    assert tree(renamed.path) == tree(bench.source)


def test_plain_trees_are_taken_over_as_a_base(bench: Bench) -> None:
    some_files(bench.source)
    bench.label.mkdir(parents=True)
    adopted = bench.label / "2026-01-01T000000Z"
    subprocess.run(["cp", "-a", str(bench.source), str(adopted)], check=True)
    before = tree(adopted)
    some_files(bench.source, seed=2, count=5)
    snapshot = bench.back_up()
    assert tree(snapshot.path) == tree(bench.source)
    assert tree(adopted) == before
    bench.store.expire(bench.job, [BEGIN], pulse)
    assert names(bench.label) == [snapshot.name]


def test_on_btrfs_a_complete_snapshot_is_read_only(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with mounted("btrfs", tmp_path) as disk:
        bench = Bench(disk, tmp_path / "source")
        some_files(bench.source)
        snapshot = bench.back_up()
        with pytest.raises(OSError, match="Read-only"):
            (snapshot.path / "dir0/file0").write_text("x")


def test_counting_says_what_was_kept(bench: Bench) -> None:
    some_files(bench.source)
    first = bench.back_up()
    (bench.source / "dir0/file0").write_text("another")
    (bench.source / "dir1/file1").unlink()
    (bench.source / "new").write_text("new")
    second = bench.back_up()
    found, before = changes.count(first.path, second.path, pulse)
    assert (before.files, found.files, found.kept) == (30, 30, 28)


CAPABILITIES = "+chown,+dac_override,+fowner,+fsetid,+mknod,+setfcap"


@pytest.mark.parametrize("kind", KINDS)
def test_the_unprivileged_service_can_do_all_of_it(kind: str, tmp_path: Path) -> None:
    """The unit gives the engine six of root's powers and not one more."""
    (tmp_path / "source").mkdir()
    tmp_path.chmod(0o755)
    some_files(tmp_path / "source")
    with mounted(kind, tmp_path) as disk:
        program = (
            "from datetime import datetime, timedelta, timezone\n"
            "from pathlib import Path\n"
            "from flashback import process, transfer\n"
            "from flashback.model import Config, Job\n"
            "from flashback.store import open_store\n"
            f"disk, pulse = Path({str(disk)!r}), process.no_pulse\n"
            f"job = Job('laptop', 'home', 'daily', {str(tmp_path / 'source')!r}, (), local=True)\n"
            "store = open_store(disk)\n"
            "for day in range(1, 4):\n"
            "    fill = store.begin(job, pulse)\n"
            "    done = transfer.fill(Config(Path('/'), disk), job, '', fill.destination, pulse=pulse,\n"
            "                         on_progress=lambda _: None, log=lambda _: None)\n"
            "    assert done.verdict.complete, done\n"
            "    store.commit(fill, lambda: datetime(2026, 1, day, tzinfo=timezone.utc), pulse)\n"
            "store.expire(job, [each.taken for each in store.snapshots(job)[:2]], pulse)\n"
        )
        subprocess.run(["chown", "-R", "54321:54321", str(disk)], check=True)
        powers = [
            f"--inh-caps=-all,{CAPABILITIES}",
            f"--ambient-caps=-all,{CAPABILITIES}",
            f"--bounding-set=-all,{CAPABILITIES}",
        ]
        drop = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", *powers]
        library = str(Path(process.__file__).parent.parent)
        done = subprocess.run(
            [*drop, "python3", "-c", program],
            capture_output=True, text=True, check=False, cwd="/",
            env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONPATH": library},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (left,) = [
            path for path in (disk / "laptop/home/daily").iterdir() if not path.name.startswith("incoming.")
        ]
        assert tree(left) == tree(tmp_path / "source")
