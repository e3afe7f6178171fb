"""How a process may end, and which law is broken if it ends otherwise."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError, IntegrityError

from orchestrator.loop import MismatchError
from orchestrator.storage.base import LeaseLostError, StoreError, StoreFaultError, StoreHeldError
from tests.simulation.world import Broken, Crash, Process


def ending_of(process: Process, deed: Callable[[Process], str]) -> str:
    """Returns how a process ended, if it may end like that."""
    try:
        with _reproached(process):
            return deed(process)
    except Crash:
        assert process.dead, "a process died of what killed another"
        return "crash"
    except LeaseLostError:
        if not process.zombie:
            raise Broken("one driver at a time", "a lease was lost that nobody took") from None
        return "lost its lease"
    except StoreHeldError:
        return "refused"
    except (StoreFaultError, StoreError) as error:
        if not process.hurt:
            raise Broken("no lock between turns", str(error)) from error
        return "failing disk"


@contextmanager
def _reproached(process: Process) -> Iterator[None]:
    """Names the law that is broken by an error that may never come out."""
    try:
        yield
    except IntegrityError as error:
        raise Broken("nothing untrue is tried", _reproach(error)) from error
    except DBAPIError as error:
        law = "a failure of the disk is told as one" if process.hurt else "no lock between turns"
        raise Broken(law, _reproach(error)) from error
    except MismatchError as error:
        raise Broken("it is the same search", str(error)) from error
    except Broken:
        raise
    except AssertionError as error:
        raise Broken("the driver is at one with itself", _reproach(error)) from error


def _reproach(error: Any) -> str:
    """Returns what an error says and where in the product it comes from."""
    names = []
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if path.parent.name in ("orchestrator", "storage", "cluster"):
            names.append(f"{path.name}:{frame.name}")
    return f"{getattr(error, 'orig', error)} at {' > '.join(names[-5:])}"
