"""Hosts on one machine: each with a network, a name and processes of its own, joined by a virtual cable."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

NAMES = {"alpha": "10.77.0.1", "beta": "10.77.0.2"}
_TOOLS = ("unshare", "nsenter", "ip", "mount", "hostname")
_BOOT = 'mount --bind "$1" /etc/hosts && hostname "$2" && ip link set lo up && echo up && exec sleep infinity'


class NoHosts(Exception):
    """Why no host can be made here."""


class Host:
    """A host in namespaces of its own; nothing of it is left when it is killed.

    Args:
        folder: its disk: working folder, cache and whatever it is told to write.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.address, self.folder = name, NAMES[name], folder
        folder.mkdir(parents=True, exist_ok=True)
        known = folder / "hosts"
        known.write_text("127.0.0.1 localhost\n" + "".join(f"{at} {host}\n" for host, at in NAMES.items()))
        own = ["--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = ["unshare", *own, "sh", "-c", _BOOT, "sh", str(known), name]
        self._outside = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._outside.stdout is not None
        if self._outside.stdout.readline() != "up\n":
            raise NoHosts(self._outside.communicate()[1].strip())
        children = Path(f"/proc/{self._outside.pid}/task/{self._outside.pid}/children").read_text().split()
        self.init = int(children[0])

    def _inside(self, *command: str) -> list[str]:
        return ["nsenter", "-t", str(self.init), "-n", "-u", "-m", "-p", f"--wd={self.folder}", "--", *command]

    def run(self, *command: str) -> None:
        """Runs a command of the system's and waits for it."""
        done = subprocess.run(self._inside(*command), capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoHosts(done.stderr.strip())

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Starts a command in the host's folder; its output is read through a pipe."""
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(self.folder / "cache")}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(self._inside(*command), env=variables, **pipes)  # type: ignore[call-overload, no-any-return]

    def unplug(self) -> None:
        """Takes the cable out: whoever talks to this host hears nothing any more, not even that it is gone."""
        self.run("ip", "link", "set", "eth0", "down")

    def kill(self) -> None:
        """Switches the host off, with all that runs on it."""
        if self._outside.poll() is None:
            os.kill(self.init, signal.SIGKILL)
        self._outside.communicate(timeout=30)


def two_hosts(folder: Path) -> tuple[Host, Host]:
    """Alpha and beta, joined by a cable. Raises NoHosts where this user or kernel cannot make them."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise NoHosts(f"not installed: {', '.join(missing)}")
    made: list[Host] = []
    try:
        made += [Host("alpha", folder / "alpha")]
        made += [Host("beta", folder / "beta")]
        ends = [f"eth0 netns {host.init}".split() for host in made]
        joined = ["ip", "link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1]]
        done = subprocess.run(joined, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoHosts(done.stderr.strip())
        for host in made:
            host.run("ip", "addr", "add", f"{host.address}/24", "dev", "eth0")
            host.run("ip", "link", "set", "eth0", "up")
    except BaseException:
        for host in made:
            host.kill()
        raise
    return made[0], made[1]
