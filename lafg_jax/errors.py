"""The one exception that means "the user can mend this"."""


class UserError(ValueError):
  """A misuse or a missing input, told in one line that names the key or path and what to do.

  Commands print the message and exit with code 2, without a traceback.
  """
