"""The virtual plug's refusals; that it boots is shown by the end-to-end test."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from workbench import claims, processes, virtual_plug
from workbench.errors import WorkbenchError


def plug(folder: Path, port: int = 1) -> virtual_plug.VirtualPlug:
    return virtual_plug.VirtualPlug(folder, port, 256, 1 << 20, "STICK", "DISK")


def test_an_occupied_port_is_named_with_the_variable_that_changes_it(tmp_path: Path) -> None:
    (tmp_path / "stick.img").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(WorkbenchError, match=rf"Port {port} on 127\.0\.0\.1 .* virtual_plug_ssh_port"):
            virtual_plug.start(plug(tmp_path, port), tmp_path)
    assert not (tmp_path / "disk.img").exists()


def test_without_a_stick_there_is_nothing_to_boot(tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError, match="no stick image"):
        virtual_plug.start(plug(tmp_path), tmp_path)


def test_a_stale_pid_file_is_no_running_plug(tmp_path: Path) -> None:
    (tmp_path / "qemu.pid").write_text(str(os.getpid()))
    assert virtual_plug.pid_of(tmp_path) is None
    assert not virtual_plug.stop(tmp_path)


def test_a_system_that_is_no_ssh_server_does_not_greet() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not virtual_plug.greets(server.getsockname()[1])


def test_a_folder_is_claimed_by_one_living_run(tmp_path: Path) -> None:
    claims.claim(tmp_path)
    claims.claim(tmp_path)
    init = processes.process(1)
    assert init is not None
    (tmp_path / "run.json").write_text(json.dumps({"pid": init.pid, "started": init.started}))
    with pytest.raises(WorkbenchError, match=r"Another run \(process 1\) is at work"):
        claims.claim(tmp_path)


def test_a_run_that_ended_holds_no_claim(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"pid": 1, "started": 12345678}))
    claims.claim(tmp_path)
    (tmp_path / "run.json").write_text("half a reco")
    claims.claim(tmp_path)


def test_throwing_the_plug_away_spares_what_is_not_its_own(tmp_path: Path) -> None:
    for name in ("stick.img", "stick.img.unfinished", "disk.img", "run.json", "thesis.txt"):
        (tmp_path / name).touch()
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/workbench_ed25519").touch()
    virtual_plug.remove(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_held_nothing_else_goes_too(tmp_path: Path) -> None:
    folder = tmp_path / "plug"
    (folder / "client/home").mkdir(parents=True)
    virtual_plug.remove(folder)
    assert not folder.exists()
