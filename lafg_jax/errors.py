"""What a command tells in one line: what the user can mend, and work left to do."""


class UserError(ValueError):
  """A misuse or a missing input, told in one line that names the key or path and what to do.

  Commands print the message and exit with code 2, without a traceback.
  """


class Incomplete(RuntimeError):
  """Part of the work failed for a reason outside, what was done is kept, and a rerun does the rest.

  Commands print the message, in one line, with the command to run again, and exit with code 1.
  """
