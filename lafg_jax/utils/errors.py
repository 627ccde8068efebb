"""What a command tells in one line: what the user can mend, and work left to do."""


class UserError(ValueError):
  """A misuse or a missing input, told in one line that names the key or path and what to do.

  Commands print the message and exit with code 2, without a traceback.
  """


class Incomplete(RuntimeError):
  """Part of the work failed for a reason outside, what was done is kept, and a rerun does the rest.

  Commands print the message, in one line, with the command to run again, and exit with code 1.
  """


class PeerLost(RuntimeError):
  """Another process of the run ended or hangs; what was saved is kept.

  Commands print the message, in one line, and exit with code 1.
  """


def exit_code(error: BaseException) -> int:
  """What a command exits with after this error."""
  if isinstance(error, UserError | OSError):
    return 2
  return 130 if isinstance(error, KeyboardInterrupt) else 1
