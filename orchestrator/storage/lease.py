"""Who drives a campaign. A lease with a heartbeat; safety never rests on a clock.

A driver that died on this machine is noticed at once, by its process; one elsewhere when its
heartbeat has stopped for `LEASE_S`. Should that be wrong (a clock that jumped, a host that slept),
two drivers believe that they hold the campaign, and still only one can write: every transaction
checks the token.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

#: Seconds without a heartbeat after which a driver on another machine is taken for dead.
LEASE_S = 60.0
#: Seconds between heartbeats of a driver that has nothing to record.
HEARTBEAT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A driver's process."""

    host: str
    #: Tells apart boots of one host, and containers that share its name.
    machine: str
    process: int
    #: When the process started, in the kernel's own count: process numbers are used again.
    born: str
    user: str

    def as_json(self) -> str:
        """Returns what the store keeps."""
        return json.dumps(asdict(self))

    @property
    def label(self) -> str:
        """What people can find it by."""
        return f"process {self.process} of {self.user} on {self.host}"

    def is_gone(self) -> bool:
        """Whether it is known to have ended; a process of another machine never is."""
        return self.machine == _machine() and self.born != _birth(self.process)


def myself() -> Holder:
    """Returns this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        user = str(os.getuid())
    return Holder(
        host=socket.gethostname(),
        machine=_machine(),
        process=os.getpid(),
        born=_birth(os.getpid()),
        user=user,
    )


def new_token() -> str:
    """Returns what no other driver has."""
    return secrets.token_hex(8)


def is_alive(row: Any, now: float) -> bool:
    """Whether the driver that holds a campaign's row is to be left alone."""
    if row.lease_token is None:
        return False
    holder = Holder(**json.loads(row.lease_holder))
    if holder.is_gone():
        return False
    return holder.machine == _machine() or now - row.heartbeat_at < LEASE_S


def describe(row: Any) -> str:
    """Returns who drives a campaign, and since when."""
    holder = Holder(**json.loads(row.lease_holder))
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(row.leased_at))
    return f"{holder.label} since {since}"


def refusal(row: Any, now: float, store: str) -> str:
    """Returns why a second driver cannot have the campaign, and what to do."""
    return (
        f"campaign {row.name!r} is being run by {describe(row)} (last sign of life "
        f"{max(0.0, now - row.heartbeat_at):.0f} s ago); wait for it, or end it with "
        f"`shoal stop {row.name} --store {store}`"
    )


@cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _birth(process: int) -> str:
    """Returns when a process started; empty if there is none."""
    try:
        # After the name, which may hold anything: state first, and the start time is the 20th.
        facts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        pass
    else:
        return "" if facts[0] == "Z" else facts[19]
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(process, 0)
    except OSError:
        return ""
    return "alive"
