"""Unreadable images that a run meets on its way: replaced by the loader, named and limited here."""

from collections.abc import Iterable
from typing import Any

import accelerate
import torch
from accelerate.utils import gather_object

from transreid_ssl.errors import UserError
from transreid_ssl.files import write_text
from transreid_ssl.logs import say
from transreid_ssl.processes import on_main
from transreid_ssl.training.runfolder import RunFolder
from transreid_ssl.words import counted


class BadImages:
    """The names of the unreadable images that a run has met, over all processes and starts.

    Args:
        accelerator: Its processes count together.
        run: Where the list goes.
        limit: How many different ones may be met; None: any number.
    """

    accelerator: accelerate.Accelerator
    run: RunFolder
    limit: int | None

    def __init__(
        self, accelerator: accelerate.Accelerator, run: RunFolder, limit: int | None
    ) -> None:
        self.accelerator, self.run, self.limit = accelerator, run, limit
        self._names: set[str] = set()

    def note(self, batch: dict[str, Any]) -> None:
        """Take the names out of a batch."""
        self._names.update(batch.pop("corrupt", ()))

    def add(self, names: Iterable[str]) -> None:
        """Those that were met before a resume."""
        self._names.update(names)

    def gathered(self) -> list[str]:
        """The names that all processes have met; each calls this."""
        return sorted(set(gather_object(sorted(self._names))))

    def check(self) -> None:
        """Raise ``UserError`` if they are too many; each process calls this."""
        if self.limit is None:
            return
        count = torch.tensor(float(len(self._names)), device=self.accelerator.device)
        if self.accelerator.reduce(count, "sum").item() <= self.limit:
            return
        names = self.gathered()  # several processes may have met the same image
        if len(names) > self.limit:
            raise UserError(
                f"{counted(len(names), 'image')} could not be read, more than "
                f"--data.max_bad_fraction allows, such as {names[0]}; look at the pool with: "
                "python -m transreid_ssl.data verify PATH"
            )

    def report(self) -> None:
        """Write the list, and say where it is; nothing without a name."""
        if names := self.gathered():
            path = self.run.path / "bad_images_met.txt"
            text = "".join(f"{name}\n" for name in names)
            on_main(self.accelerator, lambda: write_text(path, text))
            said = counted(len(names), "unreadable image was", "unreadable images were")
            say(self.accelerator, f"{said} replaced: {path}")
