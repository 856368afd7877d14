"""Build a Debian system as a tar archive, from signed packages, without a network on the machine it is for.

One builder serves the plug's stick and the containers in which the roles are tested.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from workbench import cache, processes
from workbench.errors import WorkbenchError

#: Part of every recipe: raise it when the way a system is built changes.
BUILDER = 1

SPACE_NEEDED = 3 * cache.GIB

#: The initramfs holds these and those of the board, and nothing else: what it takes to reach the stick.
STICK_MODULES = ("ext4", "crc32c_generic", "sd_mod", "usb_storage", "uas")
UBOOT_SCRIPT = Path(__file__).with_name("make-uboot-files")


@dataclass(frozen=True)
class DebianRecipe:
    """Everything that decides what the archive holds."""

    suite: str
    architecture: str
    mirror: str
    packages: tuple[str, ...]
    kernel: str = ""
    """Package of the kernel; empty for a container."""
    modules: tuple[str, ...] = ()
    """Modules of the kernel that this board needs besides STICK_MODULES to reach its stick."""
    device_tree: str = ""
    """The board's device tree, by its name in the kernel's package, where U-Boot is to find both as one."""
    enabled_units: tuple[str, ...] = ()
    """systemd units that this system starts, beside those that their packages start."""
    masked_units: tuple[str, ...] = ()
    """systemd units that must not run in this system."""

    def fields(self) -> dict[str, object]:
        """Return the recipe as plain data, for the cache."""
        found: dict[str, object] = {**asdict(self), "builder": BUILDER}
        found["modules"] = (*STICK_MODULES, *self.modules) if self.kernel else ()
        if self.device_tree:
            found["uboot"] = UBOOT_SCRIPT.read_text()
        else:
            del found["device_tree"]
        return found


def cached(recipe: DebianRecipe, root: Path) -> Path | None:
    """Return the folder of a system that was built before."""
    return cache.entry(root, _kind(recipe), recipe.fields())


def build(recipe: DebianRecipe, root: Path) -> Path:
    """Return a folder with ``rootfs.tar`` and, for a system with a kernel, ``vmlinuz`` and ``initrd``."""
    processes.require_tools("mmdebstrap", "arch-test")
    return cache.build(
        root, _kind(recipe), recipe.fields(), SPACE_NEEDED, lambda folder: _make(recipe, folder)
    )


def _kind(recipe: DebianRecipe) -> str:
    return f"{'system' if recipe.kernel else 'container'}-{recipe.suite}-{recipe.architecture}"


def _make(recipe: DebianRecipe, folder: Path) -> None:
    archive = folder / "rootfs.tar"
    try:
        processes.run(
            _mmdebstrap(recipe, archive), what=f"Building Debian {recipe.suite} for {recipe.architecture}"
        )
    except WorkbenchError as error:
        if "index files failed to download" in error.what:
            raise WorkbenchError(
                f"The Debian mirror {recipe.mirror} can not be reached",
                "Check the network, or name another mirror with stick_debian_mirror",
            ) from error
        raise
    if recipe.kernel and not recipe.device_tree:
        _extract_kernel(archive, folder)


def _mmdebstrap(recipe: DebianRecipe, archive: Path) -> list[str]:
    packages = [*recipe.packages]
    hooks: list[str] = []
    if recipe.kernel:
        packages += [recipe.kernel, "initramfs-tools"]
        modules = "\\n".join((*STICK_MODULES, *recipe.modules))
        hooks.append(
            '--essential-hook=cd "$1" && mkdir -p etc/initramfs-tools/conf.d'
            " && mkdir -p usr/share/initramfs-tools/modules.d"
            ' && printf "MODULES=list\\nCOMPRESS=gzip\\n" >etc/initramfs-tools/conf.d/stick'
            f' && printf "{modules}\\n" >usr/share/initramfs-tools/modules.d/stick'
        )
    if recipe.device_tree:
        packages.append("u-boot-tools")
        hooks += _uboot_hooks(recipe.device_tree)
    for verb, units in (("enable", recipe.enabled_units), ("mask", recipe.masked_units)):
        if units:
            hooks.append(f'--customize-hook=systemctl --root="$1" --quiet {verb} {" ".join(units)}')
    # Every plug and container makes these for itself.
    hooks.append(
        '--customize-hook=rm -f "$1"/etc/ssh/ssh_host_*_key* "$1/etc/machine-id" "$1/etc/hostname"'
        ' "$1"/var/lib/dbus/machine-id && printf uninitialized >"$1/etc/machine-id"'
    )
    return [
        "mmdebstrap",
        "--variant=minbase",
        f"--architectures={recipe.architecture}",
        f"--include={','.join(packages)}",
        '--aptopt=Acquire::Retries "3"',
        '--aptopt=Acquire::Languages "none"',
        *(
            f"--dpkgopt=path-exclude=/usr/share/{tree}/*"
            for tree in ("doc", "man", "locale", "info", "lintian")
        ),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        *hooks,
        recipe.suite,
        str(archive),
        *_sources(recipe),
    ]


def _uboot_hooks(device_tree: str) -> list[str]:
    """Return the steps that make what U-Boot loads, now and with each new kernel or initramfs."""
    place = f"/usr/local/sbin/{UBOOT_SCRIPT.name}"
    again = ("/etc/initramfs/post-update.d", "/etc/kernel/postrm.d")
    return [
        f'--customize-hook=echo {device_tree} >"$1/etc/uboot-device-tree"',
        # Not copied with its owner, who may be anybody on this machine.
        f'--customize-hook=upload "{UBOOT_SCRIPT}" {place}',
        f'--customize-hook=chmod 755 "$1{place}"',
        f'--customize-hook=chroot "$1" {place} && test -s "$1/boot/uImage"',
        *(f'--customize-hook=mkdir -p "$1{each}" && ln -s {place} "$1{each}/zz-uboot"' for each in again),
    ]


def _sources(recipe: DebianRecipe) -> Sequence[str]:
    security = f"{recipe.mirror.rstrip('/')}-security"
    return (
        f"deb {recipe.mirror} {recipe.suite} main",
        f"deb {recipe.mirror} {recipe.suite}-updates main",
        f"deb {security} {recipe.suite}-security main",
    )


def _extract_kernel(archive: Path, folder: Path) -> None:
    """Take the kernel and its initramfs out of the archive, for boards whose loader gets them directly."""
    wanted = {"vmlinuz-": "vmlinuz", "initrd.img-": "initrd"}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            for prefix, target in wanted.items():
                source = tar.extractfile(member) if member.isfile() and name.startswith(prefix) else None
                if source and Path(member.name).parent.name == "boot":
                    with source, (folder / target).open("wb") as output:
                        shutil.copyfileobj(source, output)
    missing = [target for target in wanted.values() if not (folder / target).exists()]
    if missing:
        raise WorkbenchError(f"The system that was built holds no {' and no '.join(missing)} below /boot")
