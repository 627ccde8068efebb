"""Errors that a command reports in one line."""


class UserError(ValueError):
  """A misuse or a missing input: one line that names the key or path and says what to do.

  Commands print the message and exit with code 2, without a traceback.
  """


class Incomplete(RuntimeError):
  """Part of the work failed for an outside reason; the rest is kept, and a rerun does what is left.

  Commands print the message, in one line, with the command to run again, and exit with code 1.
  """


class PeerLost(RuntimeError):
  """Another process of the run ended or hangs. Commands print one line and exit with code 1."""


class Stopped(KeyboardInterrupt):
  """The first SIGINT or SIGTERM: what is done is saved, and the same command does the rest.

  Commands print one line and exit with code `STOPPED`, whatever they were doing.
  """


# EX_TEMPFAIL of sysexits.h. Launchers queue a run that ends with it again.
STOPPED = 75


def exit_code(error: BaseException) -> int:
  """The exit code of a command after this error."""
  if isinstance(error, UserError | OSError):
    return 2
  if isinstance(error, Stopped):
    return STOPPED
  return 130 if isinstance(error, KeyboardInterrupt) else 1
