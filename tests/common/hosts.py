"""Two machines on one: network namespaces with a cable between them.

Each has a network and a host name of its own, the file system is shared. Nothing outlives the processes that hold the
namespaces, and no privilege is needed where users may make namespaces of their own.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("unshare", "nsenter", "ip", "sleep", "hostname")
CABLE = "cable"


@dataclass(frozen=True)
class Host:
    """One of the machines; `holder` is the process that keeps its namespaces."""

    name: str
    address: str
    holder: int

    def command(self, *words):
        """A command as it is run on this machine."""
        inside = ("nsenter", f"--target={self.holder}", "--user", "--preserve-credentials", "--net", "--uts", "--")
        return [*inside, *map(str, words)]

    def run(self, *words):
        subprocess.run(self.command(*words), check=True, capture_output=True, text=True, timeout=10)

    def start(self, words, output, *, cwd=None, **environment):
        """Start a process; what it prints goes behind what is in `output`."""
        variables = {**os.environ, "GLOO_SOCKET_IFNAME": CABLE, **environment}
        with output.open("a") as file:
            return subprocess.Popen(self.command(*words), stdout=file, stderr=file, cwd=cwd, env=variables)

    def unplug(self):
        """Silence: nothing arrives any more, and nobody is told."""
        self.run("ip", "link", "set", CABLE, "down")

    def plug_in(self):
        self.run("ip", "link", "set", CABLE, "up")

    def processes(self):
        """Everything that runs on this machine; launchers give their ranks process groups of their own."""
        network = os.readlink(f"/proc/{self.holder}/ns/net")
        found = []
        for process in Path("/proc").iterdir():
            with suppress(OSError):
                if process.name.isdecimal() and os.readlink(process / "ns" / "net") == network:
                    found.append(int(process.name))
        return [process for process in found if process != self.holder]

    def kill(self):
        """End everything on this machine at once."""
        while processes := self.processes():
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.01)


@contextmanager
def two_hosts():
    """Two machines that reach each other and nothing else.

    Raises:
        OSError: They cannot be made here, and why.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if sys.platform != "linux" or missing:
        raise OSError(f"no network namespaces here: needs Linux with {', '.join(missing or TOOLS)}")
    holders = []
    try:
        holders.append(_hold("unshare", "--user", "--map-root-user", "--net", "--uts"))
        within = ("nsenter", f"--target={holders[0].pid}", "--user", "--preserve-credentials", "--")
        holders.append(_hold(*within, "unshare", "--net", "--uts"))
        hosts = [Host(f"node{i}", f"10.77.0.{i + 1}", holder.pid) for i, holder in enumerate(holders)]
        hosts[0].run("ip", "link", "add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", holders[1].pid)
        for host in hosts:
            host.run("hostname", host.name)
            host.run("ip", "address", "add", f"{host.address}/24", "dev", CABLE)
            host.run("ip", "link", "set", "lo", "up")
            host.plug_in()
        yield hosts
    except subprocess.SubprocessError as error:
        raise OSError(f"no network namespaces here: {getattr(error, 'stderr', '') or error}") from error
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


def _hold(*words):
    """A process that has made its namespaces and keeps them."""
    process = subprocess.Popen([*words, "sleep", "infinity"], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 10
    while Path(f"/proc/{process.pid}/comm").read_text().strip() != "sleep":
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise OSError(f"no network namespaces here: {process.communicate()[1].strip() or 'it takes too long'}")
        time.sleep(0.01)
    return process
