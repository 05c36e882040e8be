"""Several processes as one: an error anywhere is raised everywhere, so that none waits for ever."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from transreid_ssl.errors import UserError

if TYPE_CHECKING:
    import accelerate

Result = TypeVar("Result")


def on_main(accelerator: "accelerate.Accelerator", function: Callable[[], Result]) -> Result:
    """Call ``function`` on the main process and return its result on all of them.

    Raises:
        Exception: whatever it raised, there as it is and elsewhere as its message.
    """
    outcome: Any = [None, None]
    error = None
    if accelerator.is_main_process:
        outcome[0], error = _attempt(function)
        outcome[1] = _told(error)
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(outcome)
    _raise(error, outcome[1])
    return outcome[0]


def on_all(accelerator: "accelerate.Accelerator", function: Callable[[], Result]) -> Result:
    """Call ``function`` on every process, on the first of each node before its others.

    So a node's first process makes what the others find in its cache.

    Raises:
        Exception: whatever it raised on some process, on all of them.
    """
    result: Any = None
    for first in (True, False):
        mine = accelerator.is_local_main_process == first
        found = together(accelerator, function if mine else lambda: None)
        result = found if mine else result
    return result


def together(accelerator: "accelerate.Accelerator", function: Callable[[], Result]) -> Result:
    """Call ``function`` on every process at once.

    Raises:
        Exception: whatever it raised on some process, on all of them.
    """
    result: Any
    result, error = _attempt(function)
    told = [_told(error)]
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        told = gather_object(told)
    _raise(error, next(filter(None, told), None))
    return result


def _attempt(function: Callable[[], Result]) -> tuple[Result | None, BaseException | None]:
    try:
        return function(), None
    except BaseException as error:
        return None, error


def _told(error: BaseException | None) -> tuple[bool, str] | None:
    """What other processes are told of an error: whether it is the user's, and its message."""
    if error is None:
        return None
    if isinstance(error, UserError):
        return True, str(error)
    return False, f"another process failed with {type(error).__name__}: {error}"


def _raise(error: BaseException | None, told: tuple[bool, str] | None) -> None:
    """Raise this process's own error, or what it was told of another's."""
    if error is not None:
        raise error
    if told is not None:
        raise UserError(told[1]) if told[0] else RuntimeError(told[1])
