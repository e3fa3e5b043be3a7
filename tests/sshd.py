"""An OpenSSH server for one test on the loopback interface, with a key for the user who runs the tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

import pytest

from pytest_comfyload.launch.process import free_port

__all__ = ["SshServer", "await_port", "new_ssh_server"]


@dataclass(frozen=True)
class SshServer:
    """A server at `port` that accepts logins of `user` with the key file `key` while it is running."""

    program: str
    folder: Path
    port: int
    user: str

    @property
    def key(self) -> Path:
        return self.folder / "user"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        command = [self.program, "-D", "-E", str(self.folder / "log"), "-f", str(self.folder / "config")]
        with subprocess.Popen(command) as process:
            try:
                await_port(self.port)
                yield
            finally:
                process.kill()


def new_ssh_server(folder: Path) -> SshServer:
    """Return a server that is not yet running; skip the test if OpenSSH is missing."""
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None or shutil.which("ssh") is None:
        pytest.skip("needs OpenSSH: apt-get install openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    server = SshServer(program, folder, free_port(), getuser())
    config = {
        "Port": server.port, "ListenAddress": "127.0.0.1", "HostKey": folder / "host", "PidFile": "none",
        "UsePAM": "no", "AuthorizedKeysFile": folder / "authorized", "StrictModes": "no",
        "PasswordAuthentication": "no", "PermitRootLogin": "yes", "Subsystem": "sftp internal-sftp",
    }  # fmt: skip
    (folder / "config").write_text("".join(f"{name} {value}\n" for name, value in config.items()), encoding="utf-8")
    return server


def await_port(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as trying:
            if trying.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"no server listens on port {port}")
