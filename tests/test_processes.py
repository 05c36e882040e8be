"""An error of one process is raised on all of them, as the same kind of error."""

import pytest
from accelerate import Accelerator

import launch
from transreid_ssl import UserError
from transreid_ssl.processes import on_all, on_main, together

WORK = """
import sys
from accelerate import Accelerator
from transreid_ssl import UserError
from transreid_ssl.processes import on_all, on_main, together
from transreid_ssl.training import finish

accelerator = Accelerator(cpu=True)
rank, order = accelerator.process_index, []

def note(text):
    order.append(text)
    return text

def fails(kind, where):
    def function():
        if rank == where:
            raise kind("it broke")
        return rank
    return function

assert on_main(accelerator, lambda: note(f"main {rank}")) == "main 0"
assert order == (["main 0"] if rank == 0 else [])
assert on_all(accelerator, lambda: rank) == rank
assert together(accelerator, lambda: rank) == rank
cases = [(on_main, 0), (on_all, 0), (on_all, 1), (together, 0), (together, 1), (together, 2)]
for call, where in cases:
    for kind in (UserError, MemoryError):
        expected = kind if rank == where or kind is UserError else RuntimeError
        try:
            call(accelerator, fails(kind, where))
        except expected as error:
            assert "it broke" in str(error)
        else:
            assert where >= accelerator.num_processes, (call, where, kind)
sys.stdout.write(f"process {rank} is done\\n")
finish(accelerator)
"""


@pytest.mark.parametrize(("start", "processes"), [(launch.torchrun, 2), (launch.run, 3)])
def test_an_error_anywhere_is_raised_everywhere(tmp_path, start, processes):
    script = tmp_path / "work.py"
    script.write_text(WORK)
    said = start(str(script), processes=processes)
    assert all(f"process {rank} is done" in said for rank in range(processes))


@pytest.mark.parametrize("call", [on_main, on_all, together])
def test_one_process_raises_what_was_raised(call):
    accelerator = Accelerator(cpu=True)
    assert call(accelerator, lambda: 5) == 5
    for kind in (UserError, ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(kind):
            call(accelerator, lambda kind=kind: (_ for _ in ()).throw(kind("no")))
