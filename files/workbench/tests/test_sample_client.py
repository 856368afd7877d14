"""The sample client is a real sshd that hands out files by rsync and does nothing else."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from workbench import sample_client
from workbench.errors import WorkbenchError


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def client(tmp_path: Path) -> Iterator[sample_client.SampleClient]:
    made = sample_client.SampleClient(tmp_path / "client", free_port(), files=20)
    assert sample_client.start(made)
    yield made
    sample_client.stop(made.folder)


@pytest.fixture
def remote_shell(client: sample_client.SampleClient, tmp_path: Path) -> str:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = key.with_suffix(".pub").read_text()
    client.authorized_keys.write_text(f'restrict,command="rrsync -ro {client.home}" {public}')
    return (
        f"ssh -F none -i {key} -p {client.port} -o BatchMode=yes -o IdentitiesOnly=yes"
        f" -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR"
    )


def test_its_home_can_be_read(client: sample_client.SampleClient, remote_shell: str, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    subprocess.run(["rsync", "-aH", "-e", remote_shell, "127.0.0.1:/", str(target)], check=True)
    listed = subprocess.run(
        ["rsync", "-aHnci", "--delete", f"{client.home}/", f"{target}/"], check=True, capture_output=True
    )
    assert listed.stdout == b""
    assert len([path for path in target.rglob("*") if path.is_file()]) > 20


def test_its_home_can_not_be_written_to(
    client: sample_client.SampleClient, remote_shell: str, tmp_path: Path
) -> None:
    (tmp_path / "evil").write_text("evil")
    written = subprocess.run(
        ["rsync", "-e", remote_shell, str(tmp_path / "evil"), "127.0.0.1:/evil"],
        check=False,
        capture_output=True,
    )
    assert written.returncode != 0
    assert not (client.home / "evil").exists()


def test_the_key_opens_no_shell(client: sample_client.SampleClient, remote_shell: str) -> None:
    shell = subprocess.run(
        [*remote_shell.split(), "127.0.0.1", "id"], check=False, capture_output=True, text=True
    )
    assert shell.returncode != 0
    assert "uid=" not in shell.stdout


def test_a_second_start_changes_nothing(client: sample_client.SampleClient) -> None:
    assert not sample_client.start(client)


def test_it_can_be_stopped_and_started_with_the_same_identity(client: sample_client.SampleClient) -> None:
    key = client.host_key.read_text()
    assert sample_client.stop(client.folder)
    assert sample_client.start(client)
    assert client.host_key.read_text() == key


def test_an_occupied_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(WorkbenchError, match=rf"Port {port} .* sample_client_port"):
            sample_client.start(sample_client.SampleClient(tmp_path, port, files=1))
