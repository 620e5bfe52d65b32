"""Who holds a run's lock, as the lock file says, and whether that process is still there."""

import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_FIELD = 22  # of /proc/PID/stat: clock ticks from the machine's start to the process's (man 5 proc)

_PID_END = 2**31  # of any system
Fate = Literal["lives", "gone", "unknown"]


@dataclass(frozen=True)
class Holder:
    """A process that holds, or held, a run's lock; `process_started` tells it from a later one of the same id."""

    host: str
    pid: int
    boot_id: str
    started: str  # when it took the lock: ISO 8601
    process_started: int | None = None  # clock ticks since the machine started; None where nobody can tell

    @property
    def fate(self) -> Fate:
        """Tell whether it is still there: nobody can from another machine."""
        if self.host != socket.gethostname():
            return "unknown"
        if self.boot_id != _boot_id() or not _exists(self.pid):
            return "gone"
        now = _process_started(self.pid)
        other = self.process_started is not None and now is not None and now != self.process_started
        return "gone" if other else "lives"

    def __str__(self) -> str:
        return f"pid {self.pid} on host {self.host} since {self.started}"

    def sign(self, descriptor: int) -> None:
        """Write this into the open lock file; a full disk must not stop us, for the lock itself holds."""
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(self)).encode() + b"\n", 0)


def this_process() -> Holder:
    """Describe this process, which takes a lock now."""
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    return Holder(socket.gethostname(), os.getpid(), _boot_id(), started, _process_started(os.getpid()))


def read_holder(path: Path) -> Holder | None:
    """Read who signed a lock file; None where nobody did: who lets go of a lock wipes the file."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        said: dict[str, Any] = json.loads(path.read_bytes())
        pid, ticks = said["pid"], said.get("process_started")
        if isinstance(pid, int) and 0 < pid < _PID_END:
            known = ticks if isinstance(ticks, int) else None
            return Holder(str(said["host"]), pid, str(said["boot_id"]), str(said["started"]), known)
    return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _process_started(pid: int) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return int(stat.rpartition(b")")[2].split()[_START_FIELD - 3])  # a name may hold blanks; two fields before it
    return None


def _boot_id() -> str:
    with suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""
