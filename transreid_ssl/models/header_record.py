"""What records in the header of weights have in common: they come from JSON, or are refused."""

from typing import Any, ClassVar, Self

from transreid_ssl.errors import UserError


class HeaderRecord:
    """A dataclass that stands in a header; subclasses say what it is and how to make it anew."""

    kind: ClassVar[str]
    remedy: ClassVar[str]

    @classmethod
    def of(cls, value: Any) -> Self | None:
        """A record, from itself or from its fields in a table; None from None.

        Raises:
            UserError: something else.
        """
        if value is None or isinstance(value, cls):
            return value
        try:
            return cls(**value)
        except TypeError as error:
            raise cls.refusal(value) from error

    @classmethod
    def refusal(cls, value: Any) -> UserError:
        """That a value is no such record."""
        return UserError(f"{cls.kind} {str(value)[:60]}: is none; {cls.remedy} again")
