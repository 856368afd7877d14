"""Read the configuration in a process of its own, for the daemon.

The reader of YAML would stay in memory for months to be used once in a while; so a child
reads the file, checks it and hands the finished `Config` over.  The sacred rule: what the
daemon gets is what `flashback config check` would accept, to the letter.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from flashback import process
from flashback.errors import ConfigError, FlashbackError
from flashback.model import Config, Pulse


def signature(path: Path) -> tuple[int, int, int] | None:
    """Return what changes whenever the file does, or None when it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def read(path: Path, pulse: Pulse = process.no_pulse) -> Config:
    """Return the configuration in that file; raise the same errors as reading it here would."""
    import base64  # noqa: PLC0415 - once in a while
    import pickle  # noqa: PLC0415 - as above

    pieces: list[str] = []
    argv = [sys.executable, "-m", "flashback.config_reader", str(path)]
    done = process.run(argv, pulse=pulse, timeout=300, on_output=pieces.append)
    try:
        kind, value = json.loads("".join(pieces))
    except ValueError:
        said = " ".join(done.stderr.split())[-300:]
        raise FlashbackError(f"The configuration {path} cannot be read: {said}") from None
    if kind == "problems":
        raise ConfigError(value)
    if kind == "error":
        raise FlashbackError(*value)
    # Our own child wrote it a moment ago, nobody else could.
    made = pickle.loads(base64.b64decode(value))  # noqa: S301 - see above
    assert isinstance(made, Config)  # noqa: S101 - as above
    return made


def main(path: Path) -> None:
    """Print the configuration, or what is wrong with it, for `read`."""
    import base64  # noqa: PLC0415 - as above
    import pickle  # noqa: PLC0415 - as above

    from flashback import config  # noqa: PLC0415 - this is what the daemon must not load

    answer: list[object]
    try:
        answer = ["config", base64.b64encode(pickle.dumps(config.load(path))).decode("ascii")]
    except ConfigError as error:
        answer = ["problems", error.problems]
    except FlashbackError as error:
        answer = ["error", [error.what, error.hint]]
    print(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
