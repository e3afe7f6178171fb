"""What the command line's exit codes mean. Scripts rely on them: they do not change."""

from typing import Final

OK: Final = 0
OUR_FAULT: Final = 1
#: One clear message, nothing created.
USER_MISTAKE: Final = 2
#: The budget ended with no candidate measured.
NOTHING_MEASURED: Final = 3
TOO_MANY_FAILURES: Final = 4
#: The store has a campaign of this name with another search.
CHANGED_SEARCH: Final = 5
#: Stopped by SIGTERM; to be run again (EX_TEMPFAIL, which schedulers requeue on).
TERMINATED: Final = 75
#: Stopped by Ctrl-C; state kept.
INTERRUPTED: Final = 130
