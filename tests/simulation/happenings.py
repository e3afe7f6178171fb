"""What happens beside what befalls single statements and single attempts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.storage import lease
from tests.simulation.commands import Commands
from tests.simulation.plans import Plan
from tests.simulation.records import Monitor
from tests.simulation.world import Crash, Process, World

_JUMPS_S = (-600.0, -30.0, -1.0, 30.0, 100.0, 3600.0)
#: Seconds for which the machine of a driver sleeps.
_STALL_S = 10.0


@dataclass(slots=True)
class Happenings:
    """Lets things happen to the world, or to whoever runs in it."""

    world: World
    monitor: Monitor
    commands: Commands
    #: What other campaigns do.
    plan: Plan

    def happen(self, kind: str) -> None:
        """Lets something of a kind happen, if it can now."""
        happened = KINDS[kind](self)
        if not happened:
            self.world.note(f"no {kind}: there is nothing for it to happen to")

    def driver(self) -> Process | None:
        """Returns the process that drives, if it is the only one and has not lost its campaign."""
        process = self.world.current
        if process is None or process.driver is None or process.zombie:
            return None
        return process if len(self.world.running) == 1 else None

    def clock_jump(self) -> bool:
        jump_s = self.world.random.choice(_JUMPS_S)
        self.world.happen("clock jump", f"{jump_s:+g} s")
        self.world.jumped_s += jump_s
        return True

    def node_slow(self) -> bool:
        """All that a node is given meanwhile takes too long."""
        node = self.world.random.choice(self.world.nodes)
        self.world.happen("node slow", node.name)
        node.slow = True
        self.world.after(self._while(), lambda: setattr(node, "slow", False))
        return True

    def node_dies(self) -> bool:
        """A node is lost with all that it does, and comes back later."""
        node = self.world.random.choice(self.world.nodes)
        fleets = [one.fleet for one in self.world.running if one.fleet and not one.dead]
        lost = [(each, [one for one in each.busy if one.node == node.name]) for each in fleets]
        if not node.alive or not all(each.spoil(workers) for each, workers in lost):
            return False
        self.world.happen("node dies", node.name)
        node.alive = False
        for each in fleets:
            each.lose_node(node)
        self.world.after(self._while(), lambda: setattr(node, "alive", True))
        return True

    def signal(self) -> bool:
        if (process := self.driver()) is None:
            return False
        self.world.happen("signal")
        process.driver.signals.received = 15
        return True

    def stop(self) -> bool:
        """Somebody calls `shoal stop`."""
        if (process := self.driver()) is None:
            return False
        self.world.happen("stop")
        self.monitor.request_stop(process.campaign)
        return True

    def kill(self) -> bool:
        if (process := self.driver()) is None:
            return False
        self.world.happen("kill")
        process.die()
        raise Crash

    def stall(self) -> bool:
        """The driver's machine sleeps; what the evaluators did meanwhile is too late."""
        process = self.driver()
        if process is None or not process.fleet.spoil(process.fleet.busy):
            return False
        self.world.happen("stall")
        self.world.now += _STALL_S
        return True

    def other_campaign(self) -> bool:
        """Another campaign of the same store runs meanwhile."""
        if (process := self.driver()) is None:
            return False
        self.world.happen("other campaign")
        self.commands.run("two", self.plan, process.machine)
        return True

    def second_driver(self) -> bool:
        """Somebody starts the same campaign once more, here or on another machine."""
        if (process := self.driver()) is None:
            return False
        self.world.happen("second driver")
        self._intrude(process, self.world.random.choice(("m1", "m2")))
        return True

    def takeover(self) -> bool:
        if (process := self.driver()) is None:
            return False
        self.world.happen("takeover")
        self.take_over(process)
        return True

    def take_over(self, process: Process) -> None:
        """Stops a process for so long that another takes its campaign over; then it goes on."""
        if self.world.chance(0.5):
            self.world.now += lease.LEASE_S + 1
        else:
            self.world.jumped_s += lease.LEASE_S + 1
        self._intrude(process, "m3")

    def _intrude(self, process: Process, machine: str) -> None:
        """Starts another driver of the campaign that a process drives."""
        name, before = process.campaign, self.commands.token(process.campaign)
        self.commands.run(name, process.plan, machine)
        if self.commands.token(name) != before:
            self.world.note(f"p{process.number} has lost its campaign and does not know")
            process.zombie = True
            process.last_words = (len(self.world.processes), self.monitor.dump())

    def _while(self) -> float:
        return self.world.random.uniform(0.5, 6.0)


KINDS: Mapping[str, Callable[[Happenings], bool]] = {
    "clock jump": Happenings.clock_jump,
    "node slow": Happenings.node_slow,
    "node dies": Happenings.node_dies,
    "signal": Happenings.signal,
    "stop": Happenings.stop,
    "kill": Happenings.kill,
    "stall": Happenings.stall,
    "other campaign": Happenings.other_campaign,
    "second driver": Happenings.second_driver,
    "takeover": Happenings.takeover,
}
