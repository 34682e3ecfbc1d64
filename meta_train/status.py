"""Exit status of the commands: the one place where they are told."""

DONE = 0
"""All that was asked for is there; one process that a signal stopped says so too."""

FAILED = 1
"""An error, which is the last line on stderr."""

USAGE = 2
"""The command line is wrong."""

HUNG = 70
"""The watchdog ended a process without progress; what was saved can be resumed."""

STOPPED = 75
"""A signal stopped a run of several processes, which can be resumed: start it again."""
