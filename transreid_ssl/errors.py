"""The one exception that is meant for users."""


class UserError(Exception):
    """Something the user can put right: said in one line, without a traceback, with exit code 2.

    The message names the file or the setting, says what is wrong with it and what to do.
    """
