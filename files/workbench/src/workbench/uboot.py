"""Read what U-Boot loads: legacy images, as mkimage makes them (U-Boot, include/image.h).

64 bytes, big-endian: magic, checksum of these bytes, time, size, load address, entry point, checksum of
the content, operating system, processor, kind, compression, name of 32 bytes; then the content.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from workbench.errors import WorkbenchError

MAGIC = 0x27051956
_HEADER = struct.Struct(">7I4B32s")
KINDS = {2: "kernel", 3: "ramdisk"}
#: How a flattened device tree begins (Devicetree Specification, 5.2), and where in it its size stands.
_TREE = b"\xd0\x0d\xfe\xed"
# An appended tree begins somewhere in the last megabyte.
_TAIL = 1 << 20


@dataclass(frozen=True)
class BootImage:
    """One image; addresses are where U-Boot puts and starts it."""

    kind: str
    name: str
    load: int
    entry: int
    content: bytes


def read(data: bytes) -> BootImage:
    """Return the image; raise WorkbenchError when it is none or damaged."""
    if len(data) < _HEADER.size:
        raise WorkbenchError("This is no image for U-Boot: it is too short")
    magic, checksum, _, size, load, entry, content_checksum, _, _, kind, _, name = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise WorkbenchError("This is no image for U-Boot: it does not begin like one")
    # Its own checksum was made with zeros in its place.
    if zlib.crc32(data[:4] + bytes(4) + data[8 : _HEADER.size]) != checksum:
        raise WorkbenchError("The head of this image for U-Boot is damaged")
    content = data[_HEADER.size :]
    if len(content) != size or zlib.crc32(content) != content_checksum:
        raise WorkbenchError("The content of this image for U-Boot is damaged")
    return BootImage(
        KINDS.get(kind, str(kind)), name.rstrip(b"\0").decode("ascii", "replace"), load, entry, content
    )


def appended_tree(kernel: bytes) -> bytes:
    """Return the device tree with which a kernel's image ends; raise WorkbenchError when it does not."""
    at = kernel.rfind(_TREE, max(0, len(kernel) - _TAIL))
    while at >= 0:
        (size,) = struct.unpack_from(">I", kernel, at + 4)
        if at + size == len(kernel):
            return kernel[at:]
        at = kernel.rfind(_TREE, max(0, len(kernel) - _TAIL), at)
    raise WorkbenchError("There is no device tree behind this kernel")
