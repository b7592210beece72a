"""What the doctor finds in trainings with one error each, and what it says of correct ones."""

from functools import cache

import pytest
from planted.report import CORRECT, ERRORS, Judgement, is_found, judge

MIN_FOUND = 0.95  # of the planted errors
MAX_WARNINGS = 2  # correct trainings with a warning: one head starts wrong and sure by design


@cache
def judgement(name: str) -> Judgement:
    return judge(CORRECT[name])


@pytest.mark.slow
def test_the_planted_errors_are_found() -> None:
    missed = [name for name, (_, set_up) in ERRORS.items() if not is_found(name, judge(set_up))]
    assert len(missed) <= (1 - MIN_FOUND) * len(ERRORS), missed


@pytest.mark.slow
def test_correct_trainings_have_no_error_and_hardly_a_warning() -> None:
    warned = [name for name in CORRECT if judgement(name).names("warning")]
    assert {
        name: judgement(name).names("error") for name in CORRECT if judgement(name).names("error")
    } == {}
    assert len(warned) <= MAX_WARNINGS, warned


@pytest.mark.slow
def test_no_check_raises_in_a_correct_training() -> None:
    assert {name: judgement(name).raised for name in CORRECT if judgement(name).raised} == {}


@pytest.mark.parametrize(
    "name",
    [
        *("softmax before cross entropy", "two sigmoids, one output", "(N, 1) against (N,)"),
        *("a warm-up longer than the training", "Adam at 1", "no zero_grad"),
        *("a view of channels last", "validation in BGR", "labels of another order"),
        *("a data set that keeps augmented images", "erasing whose result is discarded"),
    ],
)
def test_some_planted_errors_are_found(name: str) -> None:
    assert is_found(name, judge(ERRORS[name][1]))


@pytest.mark.parametrize(
    "name", ["a usual one", "jitter and erasing", "a usual step", "a frozen body"]
)
def test_some_correct_trainings_have_neither_error_nor_warning(name: str) -> None:
    assert judgement(name).names("error", "warning") == set()
    assert judgement(name).raised == ()
