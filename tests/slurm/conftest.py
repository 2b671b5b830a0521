"""A real SLURM on this machine: a controller, and nodes with GPUs that are copies of /dev/null.

Each node is a PID and UTS namespace with a slurmd of its own, so that it has its own hostname, and switching it off
ends all that runs on it at once. Needs root and Debian's slurmctld, slurmd, slurm-client and munge.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template

import pytest

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "munged", "unshare", "setpriv")
TEMPLATE = Path(__file__).with_name("slurm.conf.template")
# Where the programs look: the executor's jobs drop SLURM_CONF before they call srun.
SYSTEM = Path("/etc/slurm")
NODES = ("node1", "node2")
GPUS, GPU_TYPE = 2, "tiny"
START_SECONDS = 180
# What ends a daemon of ours with the process that started it.
DYING = ("setpriv", "--pdeathsig", "KILL")


def missing() -> str | None:
    """Why no cluster can be started here; None if one can."""
    lacking = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if lacking:
        return f"SLURM is not installed ({', '.join(lacking)}): apt-get install slurmctld slurmd slurm-client munge"
    if os.geteuid() != 0:
        return "only root can give the simulated nodes namespaces of their own"
    real = [path for path in (SYSTEM / "slurm.conf", SYSTEM / "gres.conf") if path.exists() and not path.is_symlink()]
    return f"{real[0]} belongs to another cluster" if real else None


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def _free_port_range(count: int) -> int:
    """The first of ``count`` neighbouring ports that nobody listens on, on any address.

    Below 32768, from where the kernel gives ports to connections: none is taken between here and the daemons' start.
    """
    while True:
        first = 20000 + secrets.randbelow(12000)
        sockets = [socket.socket() for _ in range(count)]
        try:
            for port, probe in enumerate(sockets, first):
                probe.bind(("", port))
            return first
        except OSError:
            continue
        finally:
            for probe in sockets:
                probe.close()


class Cluster:
    """Starts on entry, and stops on exit, by the ids of the processes that it started."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        try:
            self._prepare()
            self._munge()
            self.control()
            for node in NODES:
                self.switch_on(node)
            self._await_idle(NODES)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # The nodes first: their jobs end with them.
        for name in [*NODES, "slurmctld", "munged"]:
            self.switch_off(name)
        for name in ("slurm.conf", "gres.conf"):
            if (SYSTEM / name).is_symlink() and (SYSTEM / name).readlink() == self.root / name:
                (SYSTEM / name).unlink()

    @property
    def environment(self) -> dict[str, str]:
        """For commands of SLURM, and for whoever submits jobs."""
        return {**os.environ, "PATH": _path(), "SLURM_CONF": str(self.root / "slurm.conf")}

    def _prepare(self) -> None:
        for folder in ("state", "devices", *(f"spool-{node}" for node in NODES)):
            (self.root / folder).mkdir()
        for index in range(GPUS):
            os.mknod(self.root / "devices" / f"gpu{index}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        first = _free_port_range(1 + len(NODES))
        nodes = f"node[1-{len(NODES)}]"
        text = Template(TEMPLATE.read_text()).substitute(
            root=self.root,
            host=socket.gethostname().partition(".")[0],
            port=first,
            nodes=nodes,
            node_ports=f"[{first + 1}-{first + len(NODES)}]",
            gpus=GPUS,
            gpu_type=GPU_TYPE,
        )
        (self.root / "slurm.conf").write_text(text)
        devices = f"{self.root}/devices/gpu[0-{GPUS - 1}]"
        (self.root / "gres.conf").write_text(
            f"AutoDetect=off\nNodeName={nodes} Name=gpu Type={GPU_TYPE} File={devices}\n"
        )
        SYSTEM.mkdir(exist_ok=True)
        for name in ("slurm.conf", "gres.conf"):
            (SYSTEM / name).unlink(missing_ok=True)
            (SYSTEM / name).symlink_to(self.root / name)

    def _start(self, name: str, command: Sequence[str]) -> None:
        with (self.root / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.environment,
                cwd=self.root,
                start_new_session=True,
            )

    def _munge(self) -> None:
        key = self.root / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = {"key-file": key, "socket": self.root / "munge.sock", "pid-file": self.root / "munged.pid"}
        files |= {"log-file": self.root / "munged.log", "seed-file": self.root / "munged.seed"}
        options = [f"--{name}={path}" for name, path in files.items()]
        self._start("munged", [*DYING, "munged", "--foreground", "--force", *options])
        self._await(lambda: (self.root / "munge.sock").exists(), "munged has no socket")

    def control(self) -> None:
        """Start the controller."""
        self._start("slurmctld", [*DYING, "slurmctld", "-D", "-f", str(self.root / "slurm.conf")])
        self._await(lambda: self.ask("scontrol", "ping").returncode == 0, "slurmctld does not answer")

    def switch_on(self, node: str) -> None:
        """Start a node."""
        namespaces = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        inside = 'hostname "$1"; exec slurmd -D -N "$1" -f "$2"'
        command = ["bash", "-c", inside, "node", node, str(self.root / "slurm.conf")]
        self._start(node, [*DYING, *namespaces, *command])

    def switch_off(self, name: str) -> None:
        """Kill a daemon; a node's jobs die with it."""
        daemon = self.daemons.pop(name, None)
        if daemon is not None:
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()

    def ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of SLURM's."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)

    def jobs(self) -> list[dict[str, str]]:
        """All jobs of the last hour as ``scontrol`` describes them."""
        shown = self.ask("scontrol", "--details", "--oneliner", "show", "job").stdout
        lines = [line for line in shown.splitlines() if line.startswith("JobId=")]
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]

    def running(self, *rules: str) -> list[dict[str, str]]:
        """The running jobs whose rule begins with one of ``rules``."""
        prefixes = tuple(f"rule_{rule}" for rule in rules)
        return [j for j in self.jobs() if j["JobState"] == "RUNNING" and j.get("Comment", "").startswith(prefixes)]

    def _await_idle(self, nodes: Sequence[str]) -> None:
        def idle() -> bool:
            shown = self.ask("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N").stdout
            return set(shown.split()) >= set(nodes)

        self._await(idle, "the nodes are not idle")

    def _await(self, condition, complaint: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            logs = "\n".join(path.read_text()[-2000:] for path in sorted(self.root.glob("*.log")))
            assert time.monotonic() < deadline, f"{complaint}\n{logs}"
            time.sleep(0.1)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> Iterator[None]:
    """A shell that runs tests in the background has them ignore Ctrl-C: what these start must hear it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of its own for each test; skipped where none can be started."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    root = tmp_path / "slurm"
    root.mkdir()
    with Cluster(root) as started:
        yield started
