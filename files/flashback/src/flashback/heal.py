"""Put good copies in the place of damaged files, in every snapshot that shares them.

Everything is done under the disk's lock, and looked at once more before it is touched:

1. the bad file is kept as evidence: `.flashback/quarantine/HOST/VOLUME/LABEL/<date>/path`;
2. a good copy is looked for: another name, another snapshot, then the client, where the same
   version may still be;
3. the copy, with the owner, mode, attributes and time that belong to it, takes the bad one's
   place; without one the bad file loses its names, so that no later backup links to it.

The sacred rules: nothing is put into a snapshot unless its checksum is the manifest's; a bad file
loses no name before the evidence is on the disk; and where the disk gives an error, nothing is touched.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from pathlib import Path

from flashback import below, disk, manifest, process, reach, transfer
from flashback.errors import BusyError, FlashbackError, StoppedError
from flashback.ledger import Damage, Ledger, Place
from flashback.manifest import SICK, UNKNOWN
from flashback.model import Config, Destination, Job, Pulse, Snapshot, snapshot_name, snapshot_time
from flashback.store import Store
from flashback.verify import Trees, Volume, judge, volumes

QUARANTINE = "quarantine"
SCRATCH = "healing"
# Copies on the disk that are tried for one damaged file.
COPIES = 3
# Share of the free space that the files fetched for healing may take.
SHARE = 0.5
# A large file over a slow disk, in seconds.
LONG = 86400.0


@dataclass
class _Case:
    """One damaged file while it is worked on."""

    damage: Damage
    good: list[Place] = field(default_factory=list)
    bad: list[Place] = field(default_factory=list)
    gone: list[Place] = field(default_factory=list)
    copies: list[Place] = field(default_factory=list)
    """Other files on the disk that should have the same content."""
    reason: str = ""
    """Why nothing can be done, when that is known."""
    healed: Path | None = None


def run(
    config: Config, ledger: Ledger, pulse: Pulse, now: Callable[[], datetime], *, gently: bool = False
) -> tuple[list[Damage], list[str]]:
    """Heal what is on the list; return what was healed, and what a person should know.

    `gently` keeps what is bad where it is when there is no good copy: too much is bad at once.
    """
    listed = ledger.damage()
    if not listed:
        return [], []
    try:
        with disk.locked(config) as lock:
            work = _Healing(config, ledger, pulse, now, lock, gently=gently)
            for (host, name), damages in groupby(
                sorted(listed, key=lambda each: (each.host, each.volume)),
                key=lambda each: (each.host, each.volume),
            ):
                found = [each for each in volumes(config, f"{host}/{name}") if each.key == f"{host}/{name}"]
                if found:
                    work.volume(found[0], list(damages))
                else:
                    for each in damages:
                        ledger.lose_places(each, each.places)
    except BusyError:
        return [], ["A backup is running: damage is healed by the next slice"]
    notes = ["Too much is damaged at once: look at disk, cable and memory first; nothing was taken away"]
    return work.healed, notes if gently else []


class _Healing:
    """The work under one lock."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        pulse: Pulse,
        now: Callable[[], datetime],
        lock: int,
        *,
        gently: bool,
    ) -> None:
        self._config, self._ledger, self._pulse, self._now = config, ledger, pulse, now
        self._lock, self._gently = lock, gently
        self._store: Store = manifest.store_of(config)
        self.healed: list[Damage] = []

    def volume(self, volume: Volume, damages: list[Damage]) -> None:
        """Heal what is damaged in one volume."""
        trees = Trees(self._config, volume)
        try:
            cases = self._cases(trees, damages)
            for case in cases:
                self._examine(trees, case)
            with _scratch(self._config) as scratch:
                for number, case in enumerate(cases):
                    if self._wanting(case):
                        case.healed = self._from_disk(trees, case, scratch / f"{number}")
                self._from_client(volume, trees, [case for case in cases if self._wanting(case)], scratch)
                for case in cases:
                    self._pulse()
                    self._finish(volume, trees, case)
                process.run(["sync", "-f", "."], cwd=scratch, pulse=self._pulse, timeout=LONG)
        finally:
            trees.close()

    @staticmethod
    def _wanting(case: _Case) -> bool:
        return bool(case.bad or case.gone) and case.healed is None and not case.reason

    # --- what there is -------------------------------------------------------------------------------------

    def _cases(self, trees: Trees, damages: list[Damage]) -> list[_Case]:
        """Return a case for each damage with all its places, and copies, by one pass over the manifests."""
        cases = []
        for damage in damages:
            dead = [
                each
                for each in damage.places
                if not (
                    self._config.data_dir / damage.host / damage.volume / each.label / each.snapshot
                ).is_dir()
            ]
            left = self._ledger.lose_places(damage, dead)
            if left.places:
                cases.append(_Case(left))
        by_inode = {(case.damage.inode, case.damage.digest): case for case in cases}
        by_digest: dict[bytes, list[_Case]] = {}
        for case in cases:
            by_digest.setdefault(case.damage.digest, []).append(case)
        places: dict[int, list[Place]] = {}
        for label, snapshot in trees.snapshots:
            for entry in trees.entries((label, snapshot)):
                if entry.kind != b"f" or entry.digest == UNKNOWN or entry.digest not in by_digest:
                    continue
                own = by_inode.get((entry.inode, entry.digest))
                at = Place(label, snapshot, entry.path)
                if own is not None:
                    places.setdefault(own.damage.id, []).append(at)
                for each in by_digest[entry.digest]:
                    if each is not own and len(each.copies) < COPIES:
                        each.copies.append(at)
        return [
            replace(
                case,
                damage=replace(
                    case.damage,
                    places=tuple(sorted({*case.damage.places, *places.get(case.damage.id, [])})),
                ),
            )
            for case in cases
        ]

    def _examine(self, trees: Trees, case: _Case) -> None:
        """Look once more at every place of a damage, reading each inode once."""
        damage = case.damage
        seen: dict[tuple[int, int], bool] = {}
        for place in damage.places:
            at = (place.label, place.snapshot)
            if at not in trees.snapshots:
                continue
            try:
                top = trees.top(at)
                status = os.stat(place.path, dir_fd=top, follow_symlinks=False)
                entry = manifest.Entry(
                    b"f", damage.size, damage.mtime_ns, 0, damage.inode, damage.digest, place.path
                )
                if judge(entry, status) is not None:
                    case.bad.append(place)
                    continue
                # Subvolumes have the same inode number for what they share, and for what they no longer do.
                key = (status.st_dev, status.st_ino)
                if key not in seen:
                    seen[key] = self._is_good(top, place.path, damage.digest)
                (case.good if seen[key] else case.bad).append(place)
            except (FileNotFoundError, NotADirectoryError):
                case.gone.append(place)
            except OSError as error:
                if error.errno not in SICK:
                    raise
                case.reason = f"the disk gives an error: {error.strerror}"

    def _is_good(self, top: int, path: bytes, digest: bytes) -> bool:
        return digest in (manifest.digest(top, path, self._pulse), UNKNOWN)

    # --- good copies ---------------------------------------------------------------------------------------

    def _from_disk(self, trees: Trees, case: _Case, target: Path) -> Path | None:
        """Return a good copy made from what the disk has elsewhere, or None."""
        if case.damage.digest == UNKNOWN:
            case.reason = "what it was is not known: it could never be read"
            return None
        for place in case.good:
            # The very file that the others share; a second name in scratch, as copies have theirs there.
            try:
                os.link(_path(trees, place), target, follow_symlinks=False)
            except OSError:
                break
            return target
        for place in [*case.good, *case.bad, *case.copies]:
            try:
                top = trees.top((place.label, place.snapshot))
                status = os.stat(place.path, dir_fd=top, follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode) or status.st_size != case.damage.size:
                    continue
                if not self._is_good(top, place.path, case.damage.digest):
                    continue
                self._copy(_path(trees, place), target)
            except (OSError, FlashbackError) as error:
                if isinstance(error, StoppedError):
                    raise
                continue
            if self._accepted(trees, case, target):
                return target
        return None

    def _copy(self, source: bytes, target: Path) -> None:
        """Copy a file with all that belongs to it."""
        argv = ["cp", "-a", "--reflink=auto", "--sparse=always", "--", os.fsdecode(source), str(target)]
        done = process.run(argv, pulse=self._pulse, timeout=LONG)
        if done.code != 0:
            target.unlink(missing_ok=True)
            raise FlashbackError(f"A good copy cannot be made: {' '.join(done.stderr.split())}")

    def _from_client(self, volume: Volume, trees: Trees, cases: list[_Case], scratch: Path) -> None:
        """Fetch the damaged paths from the client and keep those that are still the same version."""
        if not cases:
            return None
        job = next(
            (
                each
                for each in self._config.jobs
                if (each.host, each.volume) == (volume.host, volume.name)
                and each.copy_of is None
                and not each.disabled
            ),
            None,
        )
        if job is None:
            return self._give_up(cases, "the client is not in the configuration any more")
        room = disk.look(self._config).free * SHARE
        fitting = []
        for case in cases:
            room -= case.damage.size
            if room < 0:
                case.reason = "there is not enough room on the disk to fetch it again"
            else:
                fitting.append(case)
        paths = [case.damage.path for case in fitting]
        try:
            fetched = fetch(self._config, job, paths, scratch, pulse=self._pulse, lock=self._lock)
        except StoppedError:
            raise
        except FlashbackError as error:
            return self._give_up(fitting, error.what)
        for case in fitting:
            target = Path(os.fsdecode(os.fsencode(fetched) + b"/" + case.damage.path))
            if not os.path.lexists(target):
                case.reason = "the client does not have it any more"
            elif target.is_symlink() or not target.is_file() or not self._accepted(trees, case, target):
                case.reason = "the client has another version now"
            else:
                case.healed = target
        return None

    @staticmethod
    def _give_up(cases: Sequence[_Case], reason: str) -> None:
        for case in cases:
            case.reason = reason

    def _accepted(self, trees: Trees, case: _Case, target: Path) -> bool:
        """Return whether a copy is the stored version; give it what belongs to the damaged file."""
        parent = below.open_tree(target.parent)
        try:
            with target.open("rb") as file:
                # Only what is on the disk can be dropped from the cache and truly read back.
                os.fsync(file.fileno())
            if not self._is_good(parent, os.fsencode(target.name), case.damage.digest):
                return False
        finally:
            os.close(parent)
        if case.bad:
            _dress(target, _path(trees, case.bad[0]))
        os.utime(target, ns=(case.damage.mtime_ns, case.damage.mtime_ns))
        return True

    # --- putting right -------------------------------------------------------------------------------------

    def _finish(self, volume: Volume, trees: Trees, case: _Case) -> None:
        """Put the good copy in its places, or take the bad one out of them; write down what became of it."""
        damage = case.damage
        if not case.bad and not case.gone and not case.reason and case.good:
            self._done(replace(damage, reason="it reads well again"))
            return
        if case.reason.startswith("the disk gives"):
            self._ledger.change(replace(damage, kind="unreadable", reason=case.reason))
            return
        try:
            evidence = self._keep_evidence(volume, trees, case)
            damage = replace(damage, evidence=evidence or damage.evidence, reason=case.reason)
            self._ledger.change(damage)
            if case.damage.digest == UNKNOWN or (case.healed is None and self._gently):
                return
            self._replace(volume, trees, case)
        except (FlashbackError, OSError) as error:
            if isinstance(error, StoppedError):
                raise
            self._ledger.change(replace(damage, reason=str(error)))
            return
        if case.healed is not None:
            self._done(replace(damage, reason="a good copy took its place"))

    def _done(self, damage: Damage) -> None:
        healed = replace(damage, healed_at=self._now())
        self._ledger.change(healed)
        self.healed.append(healed)

    def _keep_evidence(self, volume: Volume, trees: Trees, case: _Case) -> bytes | None:
        """Give the bad file a name in the quarantine; a copy where the file system cannot link that far."""
        if not case.bad:
            return None
        first = case.bad[0]
        source = _path(trees, first)
        known = case.damage.evidence
        if known is not None and os.path.exists(known) and os.path.samefile(known, source):  # noqa: PTH110, PTH121 - names are bytes
            return known
        if not stat.S_ISREG(os.lstat(source).st_mode):
            raise FlashbackError(
                f"{os.fsdecode(source)} is no regular file any more", "Look at it and remove it"
            )
        label = next(job for job in volume.jobs if job.label == first.label)
        folder, kept = self._free_place(label, first.path)
        os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120 - names are bytes
        try:
            os.link(source, kept, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EMLINK):
                raise
            self._copy(source, Path(os.fsdecode(kept)))
        process.run(["sync", "-f", "."], cwd=folder, pulse=self._pulse, timeout=LONG)
        return kept

    def _free_place(self, label: Job, path: bytes) -> tuple[Path, bytes]:
        """Return a folder of this moment in the quarantine, and where in it the evidence may go."""
        moment = self._config.data_dir / disk.META / QUARANTINE / label.name / snapshot_name(self._now())
        for number in itertools.count(1):
            folder = moment if number == 1 else moment.with_name(f"{moment.name}-{number}")
            kept = os.fsencode(folder) + b"/" + path
            if not os.path.lexists(kept):
                break
        return folder, kept

    def _replace(self, volume: Volume, trees: Trees, case: _Case) -> None:
        """Change every place; also the trees without a manifest that share the bad inode."""
        inodes = {_identity(os.lstat(_path(trees, place))) for place in case.bad}
        for place in [*case.bad, *(case.gone if case.healed else [])]:
            self._pulse()
            _, snapshot = trees.snapshots[(place.label, place.snapshot)]
            self._store.mend(snapshot, place.path, case.healed)
        names = {place.path for place in case.damage.places}
        for tree, path in self._others(volume, trees, names, inodes):
            name = tree.name.removeprefix("suspect-")
            taken = snapshot_time(name)
            if taken is not None:
                self._store.mend(Snapshot(taken, tree, suspect=name != tree.name), path, case.healed)
            else:
                # What an interrupted fill left is not a snapshot: the next fill fetches the file again.
                os.unlink(os.fsencode(tree) + b"/" + path)  # noqa: PTH108 - names are bytes

    def _others(
        self, volume: Volume, trees: Trees, names: set[bytes], inodes: set[tuple[int, int, int]]
    ) -> Iterator[tuple[Path, bytes]]:
        """Yield (tree, path) of bad inodes in trees without a manifest: suspect, unfinished, new."""
        for job in volume.jobs:
            for tree in sorted((self._config.data_dir / job.name).iterdir()):
                if (job.label, tree.name) in trees.snapshots or tree.is_symlink() or not tree.is_dir():
                    continue
                if tree.name.startswith("expired-"):
                    continue
                top = below.open_tree(tree)
                try:
                    for path in names:
                        try:
                            status = os.stat(path, dir_fd=top, follow_symlinks=False)
                        except (FileNotFoundError, NotADirectoryError):
                            continue
                        if stat.S_ISREG(status.st_mode) and _identity(status) in inodes:
                            yield tree, path
                finally:
                    os.close(top)


def fetch(
    config: Config, job: Job, paths: Sequence[bytes], scratch: Path, *, pulse: Pulse, lock: int | None = None
) -> Path:
    """Fetch single paths from a client, the way a backup does, below a directory; return that directory."""
    address = present(config, job, pulse)
    wanted = scratch / "wanted"
    wanted.write_bytes(b"\0".join(paths) + b"\0")
    target = scratch / "fetched"
    target.mkdir(mode=0o700)
    # The names travel inside rsync's protocol: no shell and no pattern ever sees them.
    options = ("--from0", f"--files-from={wanted}")
    done = transfer.fill(
        config,
        job,
        address,
        Destination(scratch, target.name, (options,)),
        pulse=pulse,
        on_progress=lambda progress: None,  # noqa: ARG005 - nobody watches
        log=lambda line: None,  # noqa: ARG005 - as above
        lock=lock,
    )
    # 23: some of the paths are not there any more; the others came.
    if not done.verdict.complete and done.exit != 23:
        raise FlashbackError(f"it could not be fetched from the client: {done.verdict.note}")
    return target


def present(config: Config, job: Job, pulse: Pulse) -> str:
    """Return the address at which a client can be trusted to answer; raise FlashbackError when it is away."""
    if job.local:
        return ""
    found = reach.look(job, config.known_hosts, pulse)
    if found.kind is not reach.Kind.REACHABLE:
        raise FlashbackError(f"the client is away: {found.reason}")
    return found.address


@contextmanager
def _scratch(config: Config) -> Iterator[Path]:
    """Make a directory on the backup disk and remove it, also what an earlier run left there."""
    folder = config.data_dir / disk.META / SCRATCH
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    """Return what tells a file's version on every kind of storage: subvolumes reuse inode numbers."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def _path(trees: Trees, place: Place) -> bytes:
    _, snapshot = trees.snapshots[(place.label, place.snapshot)]
    return os.fsencode(snapshot.path) + b"/" + place.path


def _dress(target: Path, model: bytes) -> None:
    """Give a file the owner, attributes (ACLs among them) and mode of another."""
    status = os.lstat(model)
    os.chown(target, status.st_uid, status.st_gid)
    wanted = {name: os.getxattr(model, name) for name in os.listxattr(model)}
    for name in os.listxattr(target):
        if name not in wanted:
            os.removexattr(target, name)
    for name, value in wanted.items():
        os.setxattr(target, name, value)
    # After the owner, for a change of that clears the set-user bits.
    os.chmod(target, stat.S_IMODE(status.st_mode))  # noqa: PTH101 - target may have any name
