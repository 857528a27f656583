"""The one exception that is a person's to mend: bad input."""


class InputError(ValueError):
    """A config, file, folder or argument does not fit; the message says what came, what was wanted and what to do.

    The command line prints the message alone and exits with status 1.
    """
