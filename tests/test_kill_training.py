"""A training that is killed and resumed ends where one does that is left alone; by hand: ``tests/kill_training.py``."""

from __future__ import annotations

import pytest
from kill_training import kill_and_resume


@pytest.mark.parametrize("model", ["lenet", "siamese"])
def test_kills_at_random_moments_change_nothing(model):
    assert kill_and_resume(model, kills=3, seed=1) == []
