"""Compares random pipelines of commands with an independent evaluation in Python over the same events.

    python3 pipelines.py PROGRAM [FIRST [COUNT]]      the queries of these seeds

The optimizer's rules each look at a few commands at once: what is right for every single command may be wrong for three in a
row. Each query runs over lines, over Parquet, and over both.
"""

import math
import os
import random
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

from oracle import DAY, DAYS, EVENTS, START, Case, differences, group, joined, moment, ordered, pick, text, truth
from oracle import sequences, write_events

NUMBER, TEXT, FLAG = "number", "text", "flag"

# Fields of the events that have one type only, and their types.
FIELDS = {
    "event.id": TEXT,
    "event.type": TEXT,
    "event.time": NUMBER,
    "x.num": NUMBER,
    "dst.port.number": NUMBER,
    "x-y": NUMBER,
    "x.tag": TEXT,
    "src.process.user": TEXT,
    "x.flag": FLAG,
}
# Names for new columns: few, so that columns are often redefined from themselves.
NAMES = {NUMBER: ["a", "b", "c", "x.num"], TEXT: ["t", "u", "x.tag"], FLAG: ["f", "g", "x.flag"]}
WORDS = ["", "red", "RED", "e", "root", "9", "alice", "IP Connect", "IP Close"]
NUMBERS = ["0", "1", "-1", "2", "3", "7", "22", "443", "0.5", "1741392000000"]
# Numbers are whole or have few binary digits after the point, so that sums do not depend on the order.
LARGE = 10_007


def exact(value):
    """Returns a number without -0, as an integer if it is whole."""
    return int(value) if value is not None and float(value).is_integer() else value


def some(function):
    """Wraps a function so that it returns None if an argument is missing."""
    return lambda *arguments: None if None in arguments else function(*arguments)


class Expression:
    """An expression: its text in the language, and a function that computes its value from a row."""

    def __init__(self, shown, make):
        self.shown, self.make = shown, make


class Maker:
    """Generates expressions over columns of known types."""

    def __init__(self, rng, columns):
        self.rng, self.columns = rng, columns

    def column(self, kind):
        names = [name for name, own in self.columns.items() if own == kind]
        if not names:
            return None
        name = self.rng.choice(names)
        return Expression(name, lambda row: row.get(name))

    def of(self, kind, depth=2):
        return {NUMBER: self.number, TEXT: self.text, FLAG: self.flag}[kind](depth)

    def condition(self, depth):
        """Generates a condition of any type. A text literal would search the whole event, so a text is always a column."""
        kind = self.rng.choice([FLAG, FLAG, NUMBER, TEXT])
        if kind == TEXT:
            return self.column(TEXT) or self.flag(depth)
        return self.of(kind, depth)

    def choice(self, kind, depth):
        """Generates a choice by `?` or `or`."""
        left, right = self.of(kind, depth), self.of(kind, depth)
        if self.rng.random() < 0.5:
            shown = f"({left.shown} or {right.shown})"
            if kind == FLAG:
                # free: a computed boolean is never missing
                return Expression(shown, lambda row: truth(left.make(row)) or truth(right.make(row)))
            return Expression(shown, lambda row: left.make(row) if truth(left.make(row)) else right.make(row))
        condition = self.condition(depth)
        shown = f"({condition.shown} ? {left.shown} : {right.shown})"
        return Expression(shown, lambda row: (left if truth(condition.make(row)) else right).make(row))

    def number(self, depth):
        rng = self.rng
        which = rng.randrange(10) if depth else rng.randrange(4)
        if which < 3:
            column = self.column(NUMBER)
            if column:
                return column
        if which < 4:
            shown = rng.choice(NUMBERS)
            value = float(shown)
            return Expression(shown if value >= 0 else f"({shown})", lambda row: exact(value))
        if which < 7:
            left, right, sign = self.number(depth - 1), self.number(depth - 1), rng.choice("+-*")
            count = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}[sign]
            count = some(lambda a, b, count=count: exact(math.fmod(count(a, b), LARGE)))
            shown = f"(({left.shown} {sign} {right.shown}) % {LARGE})"
            return Expression(shown, lambda row: count(left.make(row), right.make(row)))
        if which == 7:
            inner, by = self.number(depth - 1), rng.choice([0, 2, 3, 5])
            # An operation without a result is null.
            count = some(lambda a: exact(math.fmod(a, by)) if by else None)
            return Expression(f"({inner.shown} % {by})", lambda row: count(inner.make(row)))
        if which == 8:
            if rng.random() < 0.5:
                inner = self.text(depth - 1)
                return Expression(f"len({inner.shown})", lambda row: some(len)(inner.make(row)))
            name, count = rng.choice([("abs", abs), ("floor", math.floor), ("ceiling", math.ceil)])
            inner = self.number(depth - 1)
            return Expression(f"{name}({inner.shown})", lambda row: some(count)(inner.make(row)))
        return self.choice(NUMBER, depth - 1)

    def text(self, depth):
        rng = self.rng
        which = rng.randrange(8) if depth else rng.randrange(4)
        if which < 3:
            column = self.column(TEXT)
            if column:
                return column
        if which < 4:
            word = rng.choice(WORDS)
            return Expression(f"'{word}'", lambda row: word)
        if which == 4:
            left, right = self.text(depth - 1), self.of(rng.choice([TEXT, NUMBER]), depth - 1)
            join = some(lambda a, b: (a + text(b))[:12])
            return Expression(
                f"substr({left.shown} + {right.shown}, 0, 12)", lambda row: join(left.make(row), right.make(row))
            )
        if which == 5:
            name, change = rng.choice([("lower", str.lower), ("upper", str.upper)])
            inner = self.text(depth - 1)
            return Expression(f"{name}({inner.shown})", lambda row: some(change)(inner.make(row)))
        return self.choice(TEXT, depth - 1)

    def flag(self, depth):
        rng = self.rng
        which = rng.randrange(10) if depth else rng.randrange(4)
        if which == 0:
            column = self.column(FLAG)
            if column:
                return column
        if which < 3:
            kind = rng.choice([NUMBER, NUMBER, TEXT])
            left, right = self.of(kind, max(depth - 1, 0)), self.of(kind, max(depth - 1, 0))
            sign, holds = rng.choice(
                [
                    ("<", some(lambda a, b: a < b)),
                    (">=", some(lambda a, b: a >= b)),
                    ("=", lambda a, b: a == b),
                    ("!=", lambda a, b: a != b),
                ]
            )
            return Expression(
                f"({left.shown} {sign} {right.shown})", lambda row: bool(holds(left.make(row), right.make(row)))
            )
        if which == 3:
            column = self.column(rng.choice([NUMBER, TEXT, FLAG]))
            if column:
                there = rng.random() < 0.5
                shown = f"({column.shown} {'!=' if there else '='} null)"
                return Expression(shown, lambda row: (column.make(row) is not None) == there)
            return Expression("true", lambda row: True)
        if which == 4:
            inner, word = self.text(depth - 1), rng.choice(WORDS)
            name, holds = rng.choice(
                [
                    ("contains", lambda a, b: b.lower() in a.lower()),
                    ("starts_with", lambda a, b: a.lower().startswith(b.lower())),
                    ("contains:matchcase", lambda a, b: b in a),
                ]
            )
            return Expression(f"({inner.shown} {name} '{word}')", lambda row: bool(some(holds)(inner.make(row), word)))
        if which == 5:
            if rng.random() < 0.5:
                inner, few = self.number(depth - 1), rng.sample(NUMBERS, 3)
                return Expression(
                    f"({inner.shown} in ({', '.join(few)}))", lambda row: inner.make(row) in [float(one) for one in few]
                )
            inner, few = self.text(depth - 1), rng.sample(WORDS, 3)
            shown = ", ".join(f"'{word}'" for word in few)
            return Expression(f"({inner.shown} in ({shown}))", lambda row: inner.make(row) in few)
        if which == 6:
            inner = self.condition(depth - 1)
            return Expression(f"(not {inner.shown})", lambda row: not truth(inner.make(row)))
        if which < 9:
            parts = [self.flag(depth - 1) for _ in range(rng.choice([2, 2, 3]))]
            word, holds = rng.choice([("and", all), ("or", any)])
            shown = f" {word} ".join(part.shown for part in parts)
            return Expression(f"({shown})", lambda row: holds(bool(part.make(row)) for part in parts))
        return self.choice(FLAG, depth - 1)


class Pipeline:
    """A query, its columns with their types, and its rows. `known` tells whether the order of the rows is defined."""

    def __init__(self, rng, events, depth=0):
        self.rng, self.events, self.depth = rng, events, depth
        maker = Maker(rng, FIELDS)
        # Until columns are chosen, the program's rows have all fields of the events.
        self.columns, self.known, self.is_chosen = dict(FIELDS), False, False
        if rng.random() < 0.5:
            condition = maker.flag(2)
            self.shown = condition.shown
            self.rows = [row for row in events if condition.make(row)]
        else:
            self.shown, self.rows = "", list(events)
        if rng.random() < 0.5:
            self.order()
        if rng.random() < 0.7 or depth:
            self.select()
        else:
            self.rows = pick(self.rows, " ".join(FIELDS))
        for _ in range(rng.randrange(2, 4 if depth else 8)):
            self.step()

    def maker(self):
        return Maker(self.rng, self.columns)

    def add(self, command):
        self.shown += f" | {command}"

    def order(self):
        """Sorts by all columns, so that rows with equal keys are equal."""
        names = list(self.columns)
        self.rng.shuffle(names)
        keys = [self.rng.choice(["", "-"]) + name for name in names]
        self.add("sort " + ", ".join(keys))
        self.rows, self.known = ordered(self.rows, *keys), True

    def needs_order(self):
        if not self.known:
            self.order()

    def step(self):
        steps = [self.let] * 4 + [self.again] * 2 + [self.select] * 2 + [self.filter] * 4
        steps += [self.sort, self.limit, self.group, self.dedup, self.running, self.overall, self.top]
        # Without `timestamp`, events of one moment have an order by their ids only.
        moments = [(row.get("event.time"), row.get("event.id")) for row in self.rows]
        has_both = {"event.time", "event.id"} <= self.columns.keys()
        if self.is_chosen and has_both and len(moments) == len(set(moments)):
            steps += [self.sequence] * 3
        if self.depth == 0:
            steps += [self.subquery, self.union, self.join, self.join]
        self.rng.choice(steps)()

    def new(self):
        kind = self.rng.choice([NUMBER, NUMBER, NUMBER, TEXT, FLAG])
        return self.rng.choice(NAMES[kind]), kind

    def set(self, name, kind, make):
        self.rows = [row | {name: make(row)} for row in self.rows]
        self.columns[name] = kind

    def let(self):
        parts = []
        for _ in range(self.rng.choice([1, 1, 2, 3])):
            name, kind = self.new()
            made = self.maker().of(kind)
            parts.append(f"{name} = {made.shown}")
            self.set(name, kind, made.make)
        self.add("let " + ", ".join(parts))

    def again(self):
        """Adds similar commands a few times, each based on the one before."""
        name, kind = self.new()
        if self.columns.get(name) != kind:
            return self.let()
        made = self.maker().of(kind)
        for _ in range(self.rng.choice([2, 3, 4])):
            self.add(f"let {name} = {made.shown}")
            self.set(name, kind, made.make)

    def select(self):
        maker = self.maker()
        columns, parts, makers = {}, [], {}
        names = list(self.columns)
        self.rng.shuffle(names)
        for name in names[: self.rng.randrange(2, 6)]:
            columns[name], makers[name] = self.columns[name], lambda row, name=name: row.get(name)
            parts.append(name)
        for _ in range(self.rng.randrange(3)):
            name, kind = self.new()
            if name not in columns:
                made = maker.of(kind)
                columns[name], makers[name] = kind, made.make
                parts.append(f"{name} = {made.shown}")
        self.add("columns " + ", ".join(parts))
        self.rows = [{name: make(row) for name, make in makers.items()} for row in self.rows]
        self.columns, self.is_chosen = columns, True

    def filter(self):
        for _ in range(4):
            condition = self.maker().flag(2)
            rows = [row for row in self.rows if condition.make(row)]
            # Most filters leave rows for the following commands.
            if rows:
                break
        self.add("filter " + condition.shown)
        self.rows = rows

    def sort(self):
        names = self.rng.sample(list(self.columns), min(len(self.columns), self.rng.choice([1, 2])))
        if self.known and self.rng.random() < 0.5:
            keys = [self.rng.choice(["", "-"]) + name for name in names]
            self.add("sort " + ", ".join(keys))
            self.rows = ordered(self.rows, *keys)
        else:
            self.order()

    def limit(self):
        self.needs_order()
        count = self.rng.choice([3, 50, 700])
        self.add(f"limit {count}")
        self.rows = self.rows[:count]

    def aggregate(self):
        """Generates an aggregate: its text, its type, and a function of rows."""
        maker, which = self.maker(), self.rng.randrange(8)
        if which == 0:
            return "count()", NUMBER, len
        if which == 1:
            condition = maker.flag(2)
            return f"count({condition.shown})", NUMBER, lambda rows: sum(bool(condition.make(row)) for row in rows)
        if which < 5:
            inner = maker.number(2)
            word, of = self.rng.choice([("sum", sum), ("min", min), ("max", max), ("count_distinct", None)])
            kind = NUMBER
        elif which == 5:
            inner = maker.text(2)
            word, of = self.rng.choice([("min", min), ("max", max), ("count_distinct", None)])
            kind = TEXT if of else NUMBER
        else:
            # The first row is defined only if the order is.
            self.needs_order()
            kind = self.rng.choice([NUMBER, TEXT])
            inner = self.maker().of(kind)
            word, place = self.rng.choice([("first", 0), ("last", -1)])
            return f"{word}({inner.shown})", kind, lambda rows: inner.make(rows[place]) if rows else None
        condition = maker.flag(1) if self.rng.random() < 0.3 else None

        def make(rows):
            there = [inner.make(row) for row in rows if condition is None or condition.make(row)]
            there = [value for value in there if value is not None]
            return (of(there) if there else None) if of else len(set(there))

        where = f" where {condition.shown}" if condition else ""
        return f"{word}({inner.shown}{where})", kind, make

    def aggregates(self):
        """Generates aggregates (text, type, function of rows) with names that no key has."""
        parts, kinds, aggregates = [], {}, {}
        for name in self.rng.sample(["n", "m", "o"], self.rng.choice([1, 2, 3])):
            shown, kinds[name], aggregates[name] = self.aggregate()
            parts.append(f"{name} = {shown}")
        return parts, kinds, aggregates

    def keys(self):
        maker, keys, kinds, parts = self.maker(), {}, {}, []
        for _ in range(self.rng.choice([1, 1, 2])):
            if self.rng.random() < 0.5:
                name, kind = self.rng.choice(list(self.columns.items()))
                made, shown = (lambda row, name=name: row.get(name)), name
            else:
                name, kind = self.new()
                expression = maker.of(kind)
                made, shown = expression.make, f"{name} = {expression.shown}"
            if name not in keys and name not in ("n", "m", "o"):
                keys[name], kinds[name] = made, kind
                parts.append(shown)
        return parts, keys, kinds

    def group(self):
        parts, found, aggregates = self.aggregates()
        shown, keys, kinds = self.keys()
        self.add("group " + ", ".join(parts) + (" by " + ", ".join(shown) if shown else ""))
        if keys:
            self.rows = group(self.rows, keys, **aggregates)
        else:
            self.rows = [{name: make(self.rows) for name, make in aggregates.items()}]
        self.columns, self.known = kinds | found, True

    def top(self):
        parts, found, aggregates = self.aggregates()
        shown, keys, kinds = self.keys()
        if not keys:
            return self.group()
        self.add(f"top 5 {', '.join(parts)} by {', '.join(shown)}")
        self.rows = ordered(group(self.rows, keys, **aggregates), f"-{next(iter(aggregates))}")[:5]
        self.columns, self.known = kinds | found, True

    def dedup(self):
        self.needs_order()
        names = self.rng.sample(list(self.columns), min(len(self.columns), self.rng.choice([1, 2])))
        if self.rng.random() < 0.3:
            self.add("dedup")
            names = list(self.columns)
        else:
            self.add("dedup " + ", ".join(names))
        first = {}
        for row in self.rows:
            first.setdefault(tuple(row[name] for name in names), row)
        self.rows = list(first.values())

    def sequence(self):
        """Finds rows that follow each other within a time, and chooses columns that have the names and kinds of those before."""
        key, hours = self.rng.choice(list(self.columns)), self.rng.choice([1, 6, 48])
        steps = [self.maker().flag(1) for _ in range(self.rng.choice([2, 2, 3]))]
        shown = ", ".join(f"({step.shown})" for step in steps)
        self.add(f"sequence by {key} within '{hours}h' {shown}")
        found = sequences(self.rows, hours * 3_600_000, [lambda row, step=step: truth(step.make(row)) for step in steps], key)
        kind = self.columns[key]
        name = NAMES[kind][0]
        self.add(f"columns event.time = last.event.time, event.id = first.event.id, x-y = durationMs, {name} = last.{key}")
        self.rows = [
            {"event.time": last["event.time"], "event.id": first["event.id"]}
            | {"x-y": last["event.time"] - first["event.time"], name: last[key]}
            for first, last in found
        ]
        self.columns = {"event.time": NUMBER, "event.id": TEXT, "x-y": NUMBER, name: kind}
        self.known = False

    def running(self):
        """Adds running functions and functions over all rows, several in one command."""
        self.needs_order()
        parts = []
        for _ in range(self.rng.choice([1, 1, 2, 3])):
            # Each sees the columns defined before it in the same command.
            name, which, made = self.rng.choice(NAMES[NUMBER]), self.rng.randrange(4), self.maker().number(1)
            values = [made.make(row) for row in self.rows]
            if which == 0:
                shown, made = "running_count()", range(1, len(self.rows) + 1)
            elif which == 1:
                shown = f"running_count({made.shown} > 2)"
                made = accumulate(int(value is not None and value > 2) for value in values)
            elif which == 2:
                shown = f"overall_sum({made.shown}) % {LARGE}"
                there = [value for value in values if value is not None]
                made = [exact(math.fmod(sum(there), LARGE)) if there else None] * len(values)
            else:
                shown = f"running_sum({made.shown}) % {LARGE}"
                # free: before the first number the sum is missing
                sums = accumulate(values, lambda total, value: total if value is None else (total or 0) + value)
                made = [some(lambda total: exact(math.fmod(total, LARGE)))(total) for total in sums]
            parts.append(f"{name} = {shown}")
            self.rows = [row | {name: value} for row, value in zip(self.rows, made)]
            self.columns[name] = NUMBER
        self.add("let " + ", ".join(parts))

    def overall(self):
        made, name = self.maker().number(1), self.rng.choice(NAMES[NUMBER])
        word, of = self.rng.choice([("overall_max", max), ("overall_min", min)])
        there = [value for value in map(made.make, self.rows) if value is not None]
        all_of_them = of(there) if there else None
        self.add(f"let {name} = {word}({made.shown})")
        self.set(name, NUMBER, lambda row: all_of_them)

    def subquery(self):
        other = Pipeline(self.rng, self.events, self.depth + 1)
        names = [name for name, kind in self.columns.items() if other.columns.get(name) == kind and kind != FLAG]
        if not names:
            return self.filter()
        name = self.rng.choice(names)
        # Missing values are equal to each other.
        there = {row[name] for row in other.rows}
        negated = self.rng.random() < 0.3
        self.add(f"filter {'not ' if negated else ''}({name} in ({other.shown}))")
        self.rows = [row for row in self.rows if (row[name] in there) != negated]

    def union(self):
        other = Pipeline(self.rng, self.events, self.depth + 1)
        # Without a filter before it, `union` would be the first command and return the rows of its queries only.
        if not self.shown or any(self.columns.get(name, kind) != kind for name, kind in other.columns.items()):
            return self.let()
        self.columns |= other.columns
        self.add(f"union ({other.shown})")
        self.rows = [{name: row.get(name) for name in self.columns} for row in self.rows + other.rows]
        self.known = False

    def join(self):
        other = Pipeline(self.rng, self.events, self.depth + 1)
        names = [name for name, kind in self.columns.items() if other.columns.get(name) == kind and kind != FLAG]
        if not names:
            return self.select()
        key = self.rng.choice(names)
        # The second side only keeps the key and columns that the first does not have: others would get a new name.
        kept = [key] + [name for name in other.columns if name not in self.columns][:3]
        other.add("columns " + ", ".join(kept))
        other.rows = pick(other.rows, " ".join(kept))
        other.columns = {name: other.columns[name] for name in kept}
        # Missing keys match if both sides are groups, and never otherwise, so rows without a key are left out.
        other.add(f"filter {key} != null")
        other.rows = [row for row in other.rows if row[key] is not None]
        other.needs_order()
        if self.rng.random() < 0.5:
            other.limit()
        self.needs_order()
        words, every, keep = self.rng.choice(
            [
                ("join", False, False),
                ("left join", False, True),
                ("sql inner join", True, False),
                ("sql left join", True, True),
                ("sql outer join", True, True),
            ]
        )
        if every and len(self.rows) * len(other.rows) > 20_000:
            words, every, keep = "join", False, False
        self.shown = f"| {words} ({self.shown} | nolimit), ({other.shown} | nolimit) on {key}"
        same = lambda left, right: left[key] == right[key]
        self.rows = joined(self.rows, other.rows, same, every, keep, words == "sql outer join")
        self.columns |= other.columns
        self.rows = [{name: row.get(name) for name in self.columns} for row in self.rows]
        self.known = False


def made(seed):
    """Generates the case for a seed."""
    rng = random.Random(seed)
    events, arguments = EVENTS, ()
    if rng.random() < 0.3:
        since, until = sorted(rng.sample(range(START, START + DAYS * DAY), 2))
        events = [event for event in EVENTS if since <= event["event.time"] < until]
        arguments = ("--since", moment(since * 1_000_000), "--until", moment(until * 1_000_000))
    pipeline = Pipeline(rng, events)
    if rng.random() < 0.5:
        pipeline.needs_order()
    rows = [{name: row.get(name) for name in pipeline.columns} for row in pipeline.rows]
    query = f"{pipeline.shown} | columns {', '.join(pipeline.columns)} | nolimit"
    # Warnings, as for a comparison of two constants, are ignored here.
    return Case(f"seed {seed}", query, lambda: rows, unordered=not pipeline.known, arguments=arguments, warns=[""])


def mixed(lines, parquet):
    """Writes the older half as Parquet and the newer half as NDJSON, like the history of a running daemon."""
    folder = lines.with_name("mixed")
    folder.mkdir()
    shutil.copy(min(parquet.iterdir()), folder)
    shutil.copy(max(lines.iterdir()), folder)
    return folder


def main():
    program = os.path.abspath(sys.argv[1])
    first, count = (int(argument) for argument in (sys.argv[2:4] + ["0", "150"][len(sys.argv) - 2 :]))
    cases = [made(seed) for seed in range(first, first + count)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        stores = write_events(program, Path(folder))
        stores.append(mixed(*stores))
        found = [
            block for blocks in pool.map(lambda events: differences(program, cases, events), stores) for block in blocks
        ]
    for _, block in found:
        print(f"--- {block}\n")
    equal = len(cases) - len({place for place, _ in found})
    empty = sum(not case.rows() for case in cases)
    print(f"{len(cases)} queries, {equal} equal, {empty} without rows")
    return 0 if equal == len(cases) else 1


if __name__ == "__main__":
    sys.exit(main())
