"""Expression trees -> deterministic automata over symbols (bytes and control tokens).

The usual way: fragments with empty moves, then the subset construction. Moves are spans of
symbols, so that a character class is one move and not a hundred.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise

from dgemma_backend.constraint.expression import (
    CONTROL,
    Choice,
    Control,
    Edge,
    Expression,
    Intersection,
    Listing,
    Literal,
    Machine,
    Repeat,
    Search,
    Sequence,
    Span,
    Spans,
)
from dgemma_backend.constraint.limits import Budget

Move = tuple[int, int, int]
"""First symbol, last symbol, next state."""

_BEGIN, _END = -2, -1  # symbols of the two Edges; they never leave the fragment of a Search
_NODES_PER_STATE = 32
_OFTEN = 1024


@dataclass(frozen=True)
class SymbolMachine:
    """A deterministic automaton: the sorted, disjoint moves of each state, state 0 first."""

    moves: list[list[Move]]
    accepting: list[bool]


def determinise(expression: Expression, budget: Budget) -> SymbolMachine:
    """The automaton of an expression; raises ConstraintError past the limits of `budget`."""
    fragments = _Fragments(budget)
    start, end = fragments.node(), fragments.node()
    fragments.build(expression, start, end)
    return _Subsets(fragments, end).machine(start)


class _Fragments:
    """A nondeterministic automaton under construction: each build adds ways from start to end."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.empty: list[list[int]] = []
        self.moves: list[list[Move]] = []

    def node(self) -> int:
        self.empty.append([])
        self.moves.append([])
        count = len(self.empty)
        if count % _OFTEN == 0:
            self.budget.check_time()
            self.budget.check_states(count // _NODES_PER_STATE)
        return count - 1

    def build(self, expression: Expression, start: int, end: int) -> None:
        """Add to `start` every way that `expression` leads to `end`; `end` gets no new moves."""
        match expression:
            case Literal(data):
                self._literal(data, start, end)
            case Spans(alternatives):
                self._spans(alternatives, start, end)
            case Control(ids):
                self.moves[start] += [(CONTROL + each, CONTROL + each, end) for each in ids]
            case Sequence(parts):
                self._sequence(parts, start, end)
            case Choice(options):
                for option in options:
                    self.build(option, start, end)
            case Repeat():
                self._repeat(expression, start, end)
            case Listing():
                self._listing(expression, start, end)
            case Intersection(parts):
                self._intersection(parts, start, end)
            case Edge(is_end):
                symbol = _END if is_end else _BEGIN
                self.moves[start].append((symbol, symbol, end))
            case Search(body, around):
                self._search(body, around, start, end)
            case Machine(moves, accepting):
                self._machine(moves, accepting, start, end)

    def _literal(self, data: bytes, start: int, end: int) -> None:
        if not data:
            self.empty[start].append(end)
            return
        for byte in data[:-1]:
            following = self.node()
            self.moves[start].append((byte, byte, following))
            start = following
        self.moves[start].append((data[-1], data[-1], end))

    def _spans(self, alternatives: tuple[tuple[Span, ...], ...], start: int, end: int) -> None:
        """Alternatives with an equal tail share the nodes of that tail."""
        tails: dict[tuple[Span, ...], int] = {(): end}

        def tail(spans: tuple[Span, ...]) -> int:
            if spans not in tails:
                tails[spans] = node = self.node()
                self.moves[node].append((*spans[0], tail(spans[1:])))
            return tails[spans]

        for spans in alternatives:
            self.moves[start].append((*spans[0], tail(spans[1:])))

    def _sequence(self, parts: tuple[Expression, ...], start: int, end: int) -> None:
        if not parts:
            self.empty[start].append(end)
        for number, part in enumerate(parts):
            following = end if number == len(parts) - 1 else self.node()
            self.build(part, start, following)
            start = following

    def _repeat(self, repeat: Repeat, start: int, end: int) -> None:
        """A body without end is built `least` times, at least once: copies would multiply."""
        if repeat.least == 0:
            self.empty[start].append(end)
        most = max(repeat.least, 1) if repeat.most is None else repeat.most
        before = self.node()
        self.empty[start].append(before)
        for number in range(1, most + 1):
            behind = self.node()
            self.build(repeat.body, before, behind)
            if number >= repeat.least:
                self.empty[behind].append(end)
            if number < most:
                before = self.node()
                self.build(repeat.separator, behind, before)
            elif repeat.most is None:
                self.build(repeat.separator, behind, before)

    def _listing(self, listing: Listing, start: int, end: int) -> None:
        """Two rows of nodes, before and after the first part present; each part is built once."""
        before, after = start, self.node()
        for part, optional in listing.parts:
            inside, then = self.node(), self.node()
            self.empty[before].append(inside)
            self.build(listing.separator, after, inside)
            self.build(part, inside, then)
            following = self.node()
            if optional:
                self.empty[before].append(following)
                self.empty[after].append(then)
            before, after = following, then
        self.empty[before].append(end)
        self.empty[after].append(end)

    def _intersection(self, parts: tuple[Expression, ...], start: int, end: int) -> None:
        machine = determinise(parts[0], self.budget)
        for part in parts[1:]:
            machine = _both(machine, determinise(part, self.budget), self.budget)
        self._embed(machine, start, end)

    def _embed(self, machine: SymbolMachine, start: int, end: int) -> None:
        nodes = [self.node() for _ in machine.moves]
        self.empty[start].append(nodes[0])
        for state, moves in enumerate(machine.moves):
            self.moves[nodes[state]] = [(low, high, nodes[then]) for low, high, then in moves]
            if machine.accepting[state]:
                self.empty[nodes[state]].append(end)

    def _machine(
        self,
        moves: tuple[tuple[int, int, int, int], ...],
        accepting: frozenset[int],
        start: int,
        end: int,
    ) -> None:
        nodes: dict[int, int] = {}
        for state in (0, *accepting, *(s for move in moves for s in (move[0], move[3]))):
            if state not in nodes:
                nodes[state] = self.node()
        self.empty[start].append(nodes[0])
        for state, low, high, then in moves:
            self.moves[nodes[state]].append((low, high, nodes[then]))
        for state in accepting:
            self.empty[nodes[state]].append(end)

    def _search(self, body: Expression, around: Expression, start: int, end: int) -> None:
        """`around` any number of times, `body`, `around` any number of times.

        An Edge in `body` is a move that takes no symbol. The begin can only be passed before any
        symbol, so what lies behind it is entered from `start` at once; the end only after the
        last, so what lies before it is left for `end` at once. Then these moves are cut.
        """
        first = len(self.empty)
        entrance, found, head, tail, rest = (self.node() for _ in range(5))
        self.build(body, entrance, found)
        self.build(around, head, tail)
        self.build(around, tail, tail)
        self.build(around, rest, rest)
        self.empty[tail].append(entrance)
        self.empty[found].append(rest)
        self.empty[rest].append(end)
        self.empty[start] += [head, *self.closure(entrance, {_BEGIN})]
        if found in self.closure(entrance, {_BEGIN, _END}):
            self.empty[start].append(end)
        finishing = {
            node
            for node in range(first, len(self.empty))
            if any(low == _END for low, _, _ in self.moves[node])
            and found in self.closure(node, {_END})
        }
        for node in range(first, len(self.empty)):
            self.moves[node] = [move for move in self.moves[node] if move[0] >= 0]
        for node in finishing:
            self.empty[node].append(end)

    def closure(self, node: int, passed: Collection[int] = ()) -> set[int]:
        """The nodes that `node` leads to by empty moves, and by those with a symbol of `passed`."""
        seen, stack = {node}, [node]
        while stack:
            here = stack.pop()
            ahead = self.empty[here]
            if passed:
                ahead = ahead + [then for low, _, then in self.moves[here] if low in passed]
            for then in ahead:
                if then not in seen:
                    seen.add(then)
                    stack.append(then)
        return seen


class _Subsets:
    """The subset construction; a subset holds only nodes with moves, and the end."""

    def __init__(self, fragments: _Fragments, end: int) -> None:
        self.fragments = fragments
        self.budget = fragments.budget
        self.end = end
        self.closures: dict[int, frozenset[int]] = {}
        self.numbers: dict[frozenset[int], int] = {}
        self.by_nodes: dict[frozenset[int], int] = {}
        self.subsets: list[frozenset[int]] = []

    def machine(self, start: int) -> SymbolMachine:
        self.number(frozenset({start}))
        moves: list[list[Move]] = []
        for number, subset in enumerate(self.subsets):  # grows while we walk
            if number % 64 == 0:
                self.budget.check_time()
            moves.append(self.moves_of(subset))
        return SymbolMachine(moves, [self.end in subset for subset in self.subsets])

    def closure(self, node: int) -> frozenset[int]:
        found = self.closures.get(node)
        if found is None:
            self.budget.check_time()
            empty, moves = self.fragments.empty, self.fragments.moves
            reached = self.fragments.closure(node) if empty[node] else {node}
            found = frozenset(each for each in reached if moves[each] or each == self.end)
            self.closures[node] = found
        return found

    def number(self, nodes: frozenset[int]) -> int:
        """The state of the subset that `nodes` open up to."""
        known = self.by_nodes.get(nodes)
        if known is None:
            subset = frozenset().union(*map(self.closure, nodes))
            known = self.numbers.get(subset)
            if known is None:
                self.numbers[subset] = known = len(self.subsets)
                self.subsets.append(subset)
                self.budget.check_states(known + 1)
            self.by_nodes[nodes] = known
        return known

    def moves_of(self, subset: frozenset[int]) -> list[Move]:
        moves = sorted(move for node in subset for move in self.fragments.moves[node])
        if all(a[1] < b[0] for a, b in pairwise(moves)):
            spans = [(low, high, frozenset((then,))) for low, high, then in moves]
        else:
            spans = list(_disjoint(moves))
        found: list[Move] = []
        for low, high, nodes in spans:
            then = self.number(nodes)
            if found and found[-1][2] == then and found[-1][1] == low - 1:
                found[-1] = (found[-1][0], high, then)
            else:
                found.append((low, high, then))
        return found


def _disjoint(moves: list[Move]) -> Iterator[tuple[int, int, frozenset[int]]]:
    """Overlapping moves, sorted, cut into spans that do not overlap, each with all its targets."""
    cuts = sorted({low for low, _, _ in moves} | {high + 1 for _, high, _ in moves})
    waiting, active = 0, list[Move]()
    for low, beyond in pairwise(cuts):
        active = [move for move in active if move[1] >= low]
        while waiting < len(moves) and moves[waiting][0] == low:
            active.append(moves[waiting])
            waiting += 1
        if active:
            yield low, beyond - 1, frozenset(then for _, _, then in active)


def _both(one: SymbolMachine, other: SymbolMachine, budget: Budget) -> SymbolMachine:
    """What both automata accept."""
    pairs = [(0, 0)]
    numbers = {(0, 0): 0}
    moves: list[list[Move]] = []
    for left, right in pairs:  # grows while we walk
        if len(moves) % 64 == 0:
            budget.check_time()
        found: list[Move] = []
        for low, high, then, along in _shared(one.moves[left], other.moves[right]):
            pair = (then, along)
            if pair not in numbers:
                numbers[pair] = len(pairs)
                pairs.append(pair)
                budget.check_states(len(pairs))
            found.append((low, high, numbers[pair]))
        moves.append(found)
    return SymbolMachine(moves, [one.accepting[a] and other.accepting[b] for a, b in pairs])


def _shared(one: list[Move], other: list[Move]) -> Iterator[tuple[int, int, int, int]]:
    """Symbols that two states both take, with both next states."""
    i = j = 0
    while i < len(one) and j < len(other):
        low, high = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if low <= high:
            yield low, high, one[i][2], other[j][2]
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
