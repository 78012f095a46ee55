"""Numbers in JSON's notation, within bounds and multiples: digits from left to right.

A number is compared with a bound digit by digit. While its whole part is being written its length
is not known, so the comparison is of beginnings; the length settles it when the whole part ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from dgemma_backend.constraint.expression import (
    NOTHING,
    Expression,
    Machine,
    Repeat,
    Spans,
    choice,
    optional,
    sequence,
)

INTEGER_DIGITS = 19
"""Digits a whole number may have: those of 64 bits."""
DECIMAL_DIGITS = 15
"""Digits a number with bounds may have: so few that no two of them are one float64."""

_DIGIT = Spans((((0x30, 0x39),),))
_NOT_ZERO = Spans((((0x31, 0x39),),))

INTEGER = choice("0", sequence(optional("-"), _NOT_ZERO, Repeat(_DIGIT, 0, INTEGER_DIGITS - 1)))
NUMBER = sequence(
    optional("-"),
    choice("0", sequence(_NOT_ZERO, Repeat(_DIGIT, 0, DECIMAL_DIGITS - 1))),
    optional(sequence(".", Repeat(_DIGIT, 1, DECIMAL_DIGITS))),
    optional(sequence(choice("e", "E"), optional(choice("+", "-")), Repeat(_DIGIT, 1, 2))),
)
"""Two digits of exponent: whatever is written fits a float64."""


@dataclass(frozen=True)
class Bound:
    """One end of an interval; `inclusive` says whether it belongs to it."""

    value: Decimal
    inclusive: bool = True


def bounded_number(
    low: Bound | None, high: Bound | None, *, whole: bool, multiple: int = 1
) -> Expression:
    """Numbers from `low` to `high`, without exponent; None is no bound.

    `whole` numbers have no fraction and may have INTEGER_DIGITS digits, others DECIMAL_DIGITS with
    those of the fraction. `multiple` other than 1 only for whole ones.
    """
    zero = Bound(Decimal(0))
    from_zero = low if low is not None and low.value >= 0 else zero
    positive = _magnitudes(from_zero, high, whole, multiple)
    below_zero = None if high is None else Bound(-high.value, high.inclusive)
    if below_zero is None or below_zero.value <= 0:
        below_zero = Bound(Decimal(0), inclusive=False)  # there is no -0
    floor = None if low is None else Bound(-low.value, low.inclusive)
    negative = _magnitudes(below_zero, floor, whole, multiple)
    return choice(positive, sequence("-", negative))


def _magnitudes(low: Bound, high: Bound | None, whole: bool, multiple: int) -> Expression:
    if high is not None and high.value < low.value:
        return NOTHING
    return _Digits(low, high, whole, multiple).machine()


class _Limit:
    """A bound not below zero, and how what has been written compares with it: -1, 0 or 1."""

    def __init__(self, bound: Bound) -> None:
        self.inclusive = bound.inclusive
        whole, _, fraction = f"{bound.value.copy_abs():f}".partition(".")
        self.whole = whole.lstrip("0") or "0"
        self.fraction = fraction.rstrip("0")

    def whole_digit(self, order: int, place: int, digit: int) -> int:
        if order == 0 and place < len(self.whole):
            return _sign(digit - int(self.whole[place]))
        return order

    def whole_end(self, order: int, length: int) -> int:
        return order if length == len(self.whole) else _sign(length - len(self.whole))

    def fraction_digit(self, order: int, place: int, digit: int) -> int:
        bound = int(self.fraction[place]) if place < len(self.fraction) else 0
        return order or _sign(digit - bound)

    def end(self, order: int, length: int) -> int:
        return order or (-1 if length < len(self.fraction) else 0)


@dataclass(frozen=True)
class _State:
    """What matters of the digits so far; `whole_length` is kept while the whole part goes on."""

    whole_length: int
    fraction_length: int  # -1: no point yet
    low: int
    high: int
    remainder: int
    is_zero: bool = False


class _Digits:
    """The automaton of numbers not below zero between two bounds, explored from its start."""

    def __init__(self, low: Bound, high: Bound | None, whole: bool, multiple: int) -> None:
        self.low = _Limit(low)
        self.high = None if high is None else _Limit(high)
        self.whole = whole
        self.multiple = multiple

    def machine(self) -> Expression:
        start = _State(0, -1, 0, 0, 0)
        states, numbers = [start], {start: 0}
        moves: list[tuple[int, int, int, int]] = []
        for number, state in enumerate(states):  # grows while we walk
            for symbol, following in self.following(state):
                if following not in numbers:
                    numbers[following] = len(states)
                    states.append(following)
                moves.append((number, symbol, symbol, numbers[following]))
        return Machine(
            tuple(moves), frozenset(numbers[state] for state in states if self.accepts(state))
        )

    def following(self, state: _State) -> Iterator[tuple[int, _State]]:
        if state.fraction_length < 0:
            if not state.is_zero and state.whole_length < (
                INTEGER_DIGITS if self.whole else DECIMAL_DIGITS
            ):
                for digit in range(10):
                    yield 0x30 + digit, self.whole_digit(state, digit)
            room = state.whole_length < DECIMAL_DIGITS
            if not self.whole and state.whole_length and room:
                low, high = self.whole_end(state)
                yield ord("."), _State(state.whole_length, 0, low, high, 0)
        elif state.whole_length + state.fraction_length < DECIMAL_DIGITS:
            for digit in range(10):
                yield 0x30 + digit, self.fraction_digit(state, digit)

    def whole_digit(self, state: _State, digit: int) -> _State:
        place = state.whole_length
        return _State(
            place + 1,
            -1,
            self.low.whole_digit(state.low, place, digit),
            self.high.whole_digit(state.high, place, digit) if self.high else 0,
            (10 * state.remainder + digit) % self.multiple,
            is_zero=place == 0 and digit == 0,
        )

    def fraction_digit(self, state: _State, digit: int) -> _State:
        place = state.fraction_length
        return _State(
            state.whole_length,
            place + 1,
            self.low.fraction_digit(state.low, place, digit),
            self.high.fraction_digit(state.high, place, digit) if self.high else 0,
            0,
        )

    def whole_end(self, state: _State) -> tuple[int, int]:
        high = self.high.whole_end(state.high, state.whole_length) if self.high else 0
        return self.low.whole_end(state.low, state.whole_length), high

    def accepts(self, state: _State) -> bool:
        if state.whole_length == 0 or state.fraction_length == 0 or state.remainder:
            return False
        low, high = (state.low, state.high) if state.fraction_length > 0 else self.whole_end(state)
        length = max(state.fraction_length, 0)
        low = self.low.end(low, length)
        if low < 0 or (low == 0 and not self.low.inclusive):
            return False
        if self.high is None:
            return True
        high = self.high.end(high, length)
        return high < 0 or (high == 0 and self.high.inclusive)


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
