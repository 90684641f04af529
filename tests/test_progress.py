"""Progress lines in a log, and the check for diverged losses."""

from __future__ import annotations

import math

import pytest

from datafree import progress as module
from datafree.errors import UserError
from datafree.progress import progress, require_finite


def test_every_item_is_yielded_and_the_last_line_reports_completion(capsys):
    assert list(progress(iter("abc"), 3, "letters")) == ["a", "b", "c"]
    assert capsys.readouterr().err.startswith("letters: 3/3, ")


def test_a_long_loop_reports_its_progress(capsys, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.0)
    list(progress(range(3), 3, "steps"))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["steps: 0/3", "steps: 1/3", "steps: 2/3", "steps: 3/3"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_diverged_loss_is_a_user_error(value):
    require_finite("bell", 3, episode=1.0)
    with pytest.raises(UserError, match="bell: distillation became .* at step 3; lower the learning rate"):
        require_finite("bell", 3, episode=1.0, distillation=value)
