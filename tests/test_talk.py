"""Lines on stderr: nothing is said of nothing to do."""

from __future__ import annotations

import pytest

from hashcli.talk import Talk


@pytest.mark.parametrize("total, says", [(0, False), (1, False), (2, True), (None, True)])
def test_a_task_is_spoken_of_when_there_is_something_to_wait_for(total, says, capsys):
    with Talk().task("reading photos", total) as task:
        task.advance(total or 0)
    assert ("reading photos" in capsys.readouterr().err) == says
