"""How long a batch waits for callers who were just answered."""

import pytest

from predictor.turns import MOST_SKIPS, SHARE, Turns


class Clock:
    """Stands still until it is told otherwise."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("answered", "waiting", "expected"),
    [(1, 0, 1), (1, 1, 1), (7, 1, 4), (8, 0, 4), (4, 4, 4), (8, 24, 16), (2, 1, 2)],
)
def test_half_of_those_who_ask_are_expected(answered: int, waiting: int, expected: int) -> None:
    turns = Turns()
    turns.end(answered, waiting, 1.0)
    assert turns.expected == expected


def test_waits_for_a_share_of_the_last_forward_from_its_end() -> None:
    clock = Clock()
    turns = Turns(clock)
    assert turns.seconds() == 0.0
    turns.end(8, 0, seconds=2.0)
    assert turns.seconds() == pytest.approx(2 * SHARE)
    clock.now += 1.5 * SHARE
    assert turns.seconds() == pytest.approx(0.5 * SHARE)
    clock.now += 60.0
    assert turns.seconds() == 0.0


def test_what_was_in_vain_is_tried_more_and_more_rarely_until_it_pays() -> None:
    turns = Turns(Clock())
    gaps = []
    for _ in range(9):
        turns.learn(came=False)
        gaps.append(0)
        while not turns.seconds():
            turns.end(8, 0, 1.0)
            gaps[-1] += 1
    assert gaps == [1 + skipped for skipped in (1, 2, 4, 8, 16, 32, MOST_SKIPS, MOST_SKIPS, MOST_SKIPS)]
    turns.learn(came=True)
    assert turns.seconds() > 0
    turns.learn(came=False)
    turns.end(8, 0, 1.0)
    turns.end(8, 0, 1.0)
    assert turns.seconds() > 0
