"""Compares answers with an independent evaluation in Python over the same events, for each rule of docs/language.md.

    python3 oracle.py PROGRAM [WORD]      only the cases with WORD in their rule or query

No expectation comes from the program. Each query runs twice: over NDJSON, and over the same events as Parquet.
Where docs/language.md leaves something open, a comment beginning with "free:" says what the program does.
"""

import ipaddress
import json
import math
import os
import random
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

# ---------------------------------------------------------------------------------------------------------------- events

SECOND, MINUTE, HOUR, DAY, WEEK = 1_000, 60_000, 3_600_000, 86_400_000, 604_800_000
START = 1_740_960_000_000  # Monday, 3 March 2025, 00:00 UTC
DAYS = 10
COUNT = 2_500

KINDS = (
    ["IP Connect"] * 8
    + ["IP Close"] * 6
    + ["IP Listen"] * 2
    + ["IP Listen End", "Data Loss", "Sensor Start", "Sensor Stop"]
)
NAMES = [
    "curl",
    "Curl",
    "CURL",
    "sshd",
    "nginx",
    "Nginx",
    "python3",
    "ÄPFEL",
    "äpfel",
    "x_y",
    "x*y",
    "100%",
    "it's",
    "a b",
    "",
]
USERS = ["root", "alice", "Bob", "www-data", "ROOT"]
TAGS = ["red", "Red", "RED", "green", "blue", "Ärger", "zebra", "10", "9", ""]
TEXTS = ["42", "42.0", "007", "443", "true", "10.0.0.0/8", "10.1.2.3", "9.9.9.9", "word", " 5 ", "nan", "1e3"]
ADDRESSES = [
    "10.0.0.9",
    "10.0.0.10",
    "10.0.0.100",
    "10.255.255.255",
    "11.0.0.1",
    "172.15.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "172.32.0.1",
    "192.168.0.1",
    "192.168.1.77",
    "192.169.0.1",
    "127.0.0.1",
    "127.9.9.9",
    "169.254.1.1",
    "203.0.113.7",
    "203.0.113.50",
    "8.8.8.8",
    "99.1.2.3",
    "::1",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "fd00::1",
    "fc00::abcd",
    "fe00::1",
    "2001:db8::1",
    "2001:db8::10",
    "2001:db8:0:1::5",
    "2606:4700::1111",
    "ff02::1",
]
PORTS = [22, 53, 80, 443, 443, 443, 8080, 8443, 0, 65535]
URLS = [
    "https://me@www.example.org:8443/a/b?x=1#z",
    "http://example.co.uk",
    "ftp://203.0.113.7/file.txt",
    "https://[2001:db8::1]:443/x",
    "http://a.b.example.com/?q=1&r=2",
    "/only/a/path?y",
    "http://example.org#top",
]
DOCUMENTS = ['{"a":{"b":1},"c":"d","n":5}', '{"c":null}', '["c"]', '{"c":true', '{"c":"with \\"quotes\\""}']
LISTS = ["3,1,2,1", "10,9,100", "7", "b,a,c,a", "", "5,5,5"]


def moment(nanoseconds):
    """Formats a moment by RFC 3339 with nine digits, as in events."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:09}Z"


def shown(nanoseconds):
    """Formats a moment by RFC 3339 with no more digits than needed, as the program shows computed moments (free: the form)."""
    seconds, _, rest = moment(nanoseconds)[:-1].partition(".")
    rest = rest.rstrip("0")
    return seconds + ("." + rest if rest else "") + "Z"


class Event(dict):
    """Creates an event; missing fields are None."""

    def __missing__(self, name):
        return None


def make_events():
    """Generates events in the order of their times, some of which are equal."""
    rng = random.Random(20250303)
    some = lambda values, share=0.9: rng.choice(values) if rng.random() < share else None
    times = [START, START + 2 * DAY, START + 5 * DAY, START + 5 * DAY - 1, START + 7 * DAY, START + 9 * DAY]
    times += [START + rng.randrange(DAYS * DAY) for _ in range(COUNT - 400 - len(times))]
    times += rng.choices(times, k=400)
    times.sort()
    numbers = list(range(COUNT))
    rng.shuffle(numbers)  # the order of ids is not that of times
    events, nanos, user = [], 0, None
    for place, (time, number) in enumerate(zip(times, numbers)):
        same = place > 0 and times[place - 1] == time and rng.random() < 0.4
        if not same:
            # Events of the same nanosecond have the same user, so that the newest user is defined.
            # The first event of a day is in its first nanosecond.
            nanos, user = 0 if time % DAY == 0 else rng.randrange(1_000_000), some(USERS, 0.8)
        kind = rng.choice(KINDS)
        event = {
            "event.type": kind,
            "event.category": "ip" if kind.startswith("IP") else None,
            "event.time": time,
            "timestamp": moment(time * 1_000_000 + nanos),
            "event.id": f"e{number:05}",
            "src.process.user": user,
            "src.process.name": some(NAMES, 0.92),
            "src.process.pid": some([1, 77, 4711, 99999]),
            "endpoint.name": "host-" + str(rng.randrange(3)),
            "x.tag": some(TAGS, 0.8),
            "x.text": some(TEXTS, 0.8),
            "x.num": some([0, 1, 2, 3, 4, -5, 2.5, 0.125, 1e6, 1234567, -0.5], 0.8),
            "x.flag": some([True, False], 0.7),
            "x.mixed": some([5, "5", "five", 1.5, True], 0.6),
            "x.url": some(URLS, 0.3),
            "x.json": some(DOCUMENTS, 0.3),
            "x.list": some(LISTS, 0.5),
            "x-y": some([1, 2, 3], 0.5),
            "x:y": some(["left", "right"], 0.5),
            "my field": some(["one", "two words"], 0.3),
            "event.dns.request": some(["example.org", "Mail.Example.ORG", "localhost"], 0.1),
        }
        if kind.startswith("IP"):
            event |= {
                "event.connection.id": f"c{rng.randrange(600):03}",
                "event.network.direction": some(["OUTGOING", "INCOMING"]),
                "event.network.protocol": some(["TCP", "UDP", "ICMP"]),
                "event.network.connectionStatus": some(["SUCCESS", "FAILURE", "BLOCKED"], 0.7),
                "event.network.preexisting": True if rng.random() < 0.1 else some([False], 0.1),
                "src.ip.address": some(ADDRESSES),
                "dst.ip.address": some(ADDRESSES),
                "src.port.number": some([rng.randrange(1024, 65536), 443, 22], 0.95),
                "dst.port.number": some(PORTS, 0.95),
                "src.process.parent.name": some(["systemd", "bash", "Curl"], 0.5),
                "src.process.cmdline": some(
                    [
                        "curl https://example.org/a?b=1",
                        "curl -k 10.0.0.9:8443",
                        "/usr/sbin/sshd -D",
                        "C:\\temp\\a.exe -x",
                        "python3 -c 'import socket'",
                        "took 100% of 12 ms",
                        "took 7 ms",
                        "two\nlines here",
                        "GRÜSSE aus Köln",
                        "",
                    ],
                    0.8,
                ),
            }
        if kind == "IP Close":
            event |= {
                "event.network.bytesSent": some([0, 1, 517, 1_000_000, 2_500_000, rng.randrange(10**7)], 0.9),
                "event.network.bytesReceived": some([0, 100, 4711, rng.randrange(10**9)], 0.9),
                "event.network.durationMs": some([0.0, 1.5, 2.0, rng.randrange(10**7) / 1000], 0.9),
                "event.network.rttUs": some([rng.randrange(50_000)], 0.8),
            }
        if kind == "Data Loss":
            event |= {"loss.stage": rng.choice(["ring", "queue", "sink", "disk"]), "loss.count": rng.randrange(1, 50)}
            # A loss happened before it is reported.
            event |= {"loss.to": time - 10, "loss.from": time - 10 - rng.randrange(3 * HOUR)}
        # Missing fields are left out, except a few that are null.
        there = {name: value for name, value in event.items() if value is not None or rng.random() < 0.02}
        events.append(Event(there))
    # The reference queries look for these: a process that sends much to one address, and one that tries many addresses.
    for place, event in enumerate(event for event in events if event["event.type"] == "IP Connect"):
        if place % 9 == 0:
            event |= {"src.process.name": "scp", "event.network.direction": "OUTGOING"}
            event |= {"dst.ip.address": "203.0.113.5", "dst.port.number": 443}
        elif place % 40 == 1:
            event |= {"src.process.name": "scan", "src.ip.address": "10.1.1.1", "dst.ip.address": f"192.168.7.{place // 40}"}
    return events


EVENTS = make_events()
ONE = min(event["event.id"] for event in EVENTS)  # selects the event of cases that need only one


# ------------------------------------------------------------------------------------------------- the language in Python


def text(value):
    """Converts a value to text; whole numbers without a point."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def number(value):
    """Converts a value to a number, or None: `a quoted number equals the number`."""
    if isinstance(value, (bool, int, float)):
        return float(value)
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?[0-9]+(\.[0-9]+)?(e[0-9]+)?\s*", value):
        return float(value)
    return None


@cache
def address(value):
    try:
        return ipaddress.ip_address(value) if isinstance(value, str) else None
    except ValueError:
        return None


@cache
def network(value):
    return ipaddress.ip_network(value, strict=False)


def inside(value, *networks):
    found = address(value)
    return found is not None and any(found in network(one) for one in networks)


def compare(left, right):
    """Returns -1, 0, 1, or None without an order. `numbers as numbers, strings by code point; on two IP addresses: by address`"""
    if left is None or right is None:
        return None
    if isinstance(left, str) and isinstance(right, str):
        ends = address(left), address(right)
        if None not in ends:
            # free: IPv4 comes before IPv6
            left, right = [(end.version, int(end)) for end in ends]
    else:
        left, right = number(left), number(right)
        if left is None or right is None:
            return None
    return (left > right) - (left < right)


def equal(left, right):
    """Implements `=`: `equal, case-sensitive on strings; a quoted number equals the number`; null = null."""
    if left is None or right is None:
        return left is right
    if isinstance(left, str) and isinstance(right, str):
        return left == right
    if isinstance(left, bool) or isinstance(right, bool):
        return text(left) == text(right)
    return number(left) is not None and number(left) == number(right)


def truth(value):
    """Implements truth: `true (not null, 0, false, "", NaN)`"""
    return value not in (None, 0, False, "") and value == value


def lower(value):
    return text(value).lower() if value is not None else None


def has(value, part, case=False):
    """Implements `contains`: substring, case-insensitive."""
    if value is None:
        return False
    return text(part) in text(value) if case else lower(part) in lower(value)


def finds(value, regex, case=False):
    """Implements `matches`: regex, unanchored, case-insensitive."""
    return value is not None and re.search(regex, text(value), 0 if case else re.IGNORECASE) is not None


def anywhere(event, part):
    return any(has(value, part) for value in event.values())


def nanoseconds(event):
    return event["event.time"] // 1000 * 1_000_000_000 + int(event["timestamp"][20:29])


def bucket(event, width):
    """Returns the beginning of the time bucket of this length (milliseconds), formatted."""
    return shown((event["event.time"] // width * width) * 1_000_000)


# ------------------------------------------------------------------------------------------------------- rows in Python


def pick(rows, names, **made):
    """Returns rows with some columns, then computed ones; `name=field` renames a field."""
    pairs = [pair.partition("=") for pair in names.split()]
    return [
        {name: row.get(field or name) for name, _, field in pairs} | {name: make(row) for name, make in made.items()}
        for row in rows
    ]


def ordered(rows, *keys):
    """Sorts rows by columns, the first being the primary key; `-` sorts descending. The sort is stable.
    free: missing values are last both ways, and addresses are sorted as texts."""
    for key in reversed(keys):
        name = key.lstrip("-")
        there = sorted(
            (row for row in rows if row.get(name) is not None), key=lambda row: row[name], reverse=key.startswith("-")
        )
        rows = there + [row for row in rows if row.get(name) is None]
    return rows


def group(rows, keys, **aggregates):
    """Returns one row for each combination of the keys, sorted by them. Keys are names, or names with a function."""
    keys = keys if isinstance(keys, dict) else {name: (lambda row, name=name: row.get(name)) for name in keys.split()}
    groups = {}
    for row in rows:
        groups.setdefault(tuple(make(row) for make in keys.values()), []).append(row)
    made = [
        dict(zip(keys, key)) | {name: make(rows) for name, make in aggregates.items()} for key, rows in groups.items()
    ]
    return ordered(made, *keys)


def whole(event):
    """Returns the fields that an event has. free: in a field of numbers and texts, numbers are shown as texts"""
    return {name: text(value) if name == "x.mixed" else value for name, value in event.items() if value is not None}


def values(rows, field):
    """Returns the values of a field that are not missing."""
    return [row[field] for row in rows if row.get(field) is not None]


def total(field):
    # free: the sum of nothing is null
    return lambda rows: sum(values(rows, field)) if values(rows, field) else None


def of(function, field):
    """Returns an aggregate of the values that are not missing; null without any."""
    return lambda rows: function(values(rows, field)) if values(rows, field) else None


def mean(numbers):
    return math.fsum(numbers) / len(numbers)


def percentile(share):
    """Returns a percentile. free: between two values it is interpolated linearly"""

    def function(numbers):
        numbers = sorted(numbers)
        place = share / 100 * (len(numbers) - 1)
        low, high = numbers[math.floor(place)], numbers[math.ceil(place)]
        return low + (high - low) * (place - math.floor(place))

    return function


def once(rows):
    """Returns each distinct row, at its first position."""
    seen = []
    for row in rows:
        if row not in seen:
            seen.append(row)
    return seen


def first_by(rows, *names):
    """Returns the first row of each combination."""
    seen = {}
    for row in rows:
        seen.setdefault(tuple(row.get(name) for name in names), row)
    return list(seen.values())


def where(**wanted):
    """Returns the events with these values; `_` stands for `.` in names."""
    return [
        event for event in EVENTS if all(event.get(name.replace("_", ".")) == value for name, value in wanted.items())
    ]


CONNECTS = where(event_type="IP Connect")
CLOSES = where(event_type="IP Close")
LISTENS = where(event_type="IP Listen")
LOSSES = where(event_type="Data Loss")
IN_ORDER = ordered(EVENTS, "event.id")


# ------------------------------------------------------------------------------------------------------------------ cases

CASES = []


class Case:
    def __init__(
        self, row, query, rows, unordered=False, arguments=(), warns=(), check=None, error=None, columns=True, digits=9
    ):
        self.row, self.query, self.rows, self.unordered = row, query, rows, unordered
        self.arguments, self.warns, self.check = arguments, warns, check
        self.error, self.columns, self.digits = error, columns, digits
        self.expected = None  # the expected rows, computed once for both stores


def gives(row, query, rows, **options):
    """The query must return these rows in this order."""
    CASES.append(Case(row, query, rows, **options))


def gives_any_order(row, query, rows, **options):
    """The query must return these rows in any order."""
    gives(row, query, rows, unordered=True, **options)


def keeps(row, filter, holds, **options):
    """The filter must keep the events for which the function is true, and its negation all others."""
    for query, wanted in [(filter, True), (f"not ({filter}\n)", False)]:
        rows = lambda wanted=wanted: pick([event for event in IN_ORDER if bool(holds(event)) == wanted], "event.id")
        gives(row, f"{query} | sort event.id | columns event.id | nolimit", rows, **options)


def keeps_first(row, filter, holds, **options):
    """Like `keeps`, for filters without a negation."""
    rows = lambda: pick([event for event in IN_ORDER if holds(event)], "event.id")
    gives(row, f"{filter} | sort event.id | columns event.id | nolimit", rows, **options)


def makes(row, expressions, **options):
    """Expressions over a single event, each with its value."""
    columns = ", ".join(f"v{place} = {expression}" for place, expression in enumerate(expressions))
    rows = lambda: [{f"v{place}": value for place, value in enumerate(expressions.values())}]
    gives(row, f"event.id = '{ONE}' | columns {columns}", rows, **options)


def each(row, expressions, **options):
    """Expressions over every event, each with its function."""
    columns = ", ".join(f"v{place} = {expression}" for place, expression in enumerate(expressions))
    made = {f"v{place}": make for place, make in enumerate(expressions.values())}
    gives(
        row,
        f"| sort event.id | nolimit | columns event.id, {columns}",
        lambda: pick(IN_ORDER, "event.id", **made),
        **options,
    )


def refuses(row, query, *says, **options):
    """The query must fail with an error that contains all of these texts."""
    CASES.append(Case(row, query, list, error=says, **options))


def get(name):
    return lambda event: event.get(name)


# --- Words

keeps(
    "Words: strings",
    r"""src.process.name = 'it\'s' or src.process.name = "it's" and x.tag = "red" """,
    lambda e: e["src.process.name"] == "it's",
)
keeps(
    "Words: an unknown escape keeps its backslash",
    r"dst.ip.address matches '^10\.0'",
    lambda e: finds(e["dst.ip.address"], r"^10\.0"),
)
keeps("Words: the same regex", r"dst.ip.address matches '^10\\.0'", lambda e: finds(e["dst.ip.address"], r"^10\.0"))
makes(
    "Words: strings",
    {
        r"'a\'b'": "a'b",
        r'"a\"b"': 'a"b',
        r"'10\.'": r"10\.",
        r"'10\\.'": r"10\.",
        r"'a\tb\nc'": "a\tb\nc",
        "'ä\"'": 'ä"',
        '"//"': "//",
    },
)
keeps("Words: curly quotes", "event.type = “IP Connect”", lambda e: e["event.type"] == "IP Connect", warns=["curly"])
keeps(
    "Words: numbers",
    "event.network.bytesSent >= 1_000_000 and event.network.durationMs < 1.5e3",
    lambda e: (e["event.network.bytesSent"] or 0) >= 1_000_000 and compare(e["event.network.durationMs"], 1500) == -1,
)
makes(
    "Words: numbers, booleans, null",
    {"1_000_000": 1000000, "true": True, "FALSE": False, "null": None, "0.5": 0.5, "2e3": 2000},
)
keeps(
    "Words: field names",
    r"my\ field = 'two words' or x:y = 'left' and x-y = 2",
    lambda e: e["my field"] == "two words" or e["x:y"] == "left" and e["x-y"] == 2,
)
each(
    "Words: a hyphen without spaces belongs to the name",
    {"x-y - 1": lambda e: e["x-y"] - 1 if e["x-y"] is not None else None},
)
gives(
    "Words: output columns may be quoted",
    "event.type = 'IP Close' | columns 'The Id' = event.id, \"Pretty Name\" = dst.port.number | sort 'The Id' | filter Pretty\\ Name = 443",
    lambda: ordered(
        [{"The Id": e["event.id"], "Pretty Name": 443} for e in CLOSES if e["dst.port.number"] == 443], "The Id"
    ),
)
gives(
    "Words: comments, line ends",
    "event.type = 'IP Close' // | limit 3\r\n// nothing\r\n| group n = count()\n  by x.tag // the last\n",
    lambda: group(CLOSES, "x.tag", n=len),
)
gives(
    "Words: white space is not needed",
    "event.type='IP Connect'and(dst.port.number=443or dst.port.number=80)NOT(x.tag='red')|group n=count()by dst.port.number|filter(n>0)",
    lambda: group(
        [e for e in CONNECTS if e["dst.port.number"] in (443, 80) and e["x.tag"] != "red"], "dst.port.number", n=len
    ),
    warns=["glued"],
)
keeps(
    "Words: keywords in any case",
    "event.type IN ('IP Connect') AND x.tag Contains 'r' Or NoT x.flag = *",
    lambda e: e["event.type"] == "IP Connect" and has(e["x.tag"], "r") or e["x.flag"] is None,
)

# --- Filter

keeps(
    "Filter: side by side, and, &&",
    "event.type = 'IP Close' x.tag = 'red'\nx.flag = true",
    lambda e: e["event.type"] == "IP Close" and e["x.tag"] == "red" and e["x.flag"] is True,
)
keeps(
    "Filter: side by side, and, &&",
    "event.type = 'IP Close' && x.tag = 'red' and x.flag",
    lambda e: e["event.type"] == "IP Close" and e["x.tag"] == "red" and e["x.flag"],
)
# `and` binds stronger than `or`.
keeps(
    "Filter: or, ||",
    "x.tag = 'red' or x.tag = 'blue' && x.flag = false || dst.port.number = 22",
    lambda e: e["x.tag"] == "red" or e["x.tag"] == "blue" and e["x.flag"] is False or e["dst.port.number"] == 22,
)
keeps(
    "Filter: true is not null, 0, false, ''",
    "event.network.bytesSent or x.flag or x.tag",
    lambda e: truth(e["event.network.bytesSent"]) or truth(e["x.flag"]) or truth(e["x.tag"]),
)
each(
    "Filter: or as a value",
    {
        "x.tag or src.process.user or 'none'": lambda e: e["x.tag"] or e["src.process.user"] or "none",
        "event.network.bytesSent || x-y || -1": lambda e: e["event.network.bytesSent"] or e["x-y"] or -1,
        "x.num or 0.5": lambda e: e["x.num"] or 0.5,
    },
)
keeps("Filter: not, !", "!(x.tag contains 'r') and not x.flag", lambda e: not has(e["x.tag"], "r") and not e["x.flag"])
makes(
    "Filter: not (null contains 'x') is true",
    {
        "not (null contains 'x')": True,
        "!(no.such.field contains 'x')": True,
        "not (null = 'x')": True,
        "not null": True,
    },
    warns=["no.such.field"],
)
keeps("Filter: =, case-sensitive", "src.process.name = 'curl'", lambda e: e["src.process.name"] == "curl")
keeps("Filter: ==", "src.process.name == 'ÄPFEL'", lambda e: e["src.process.name"] == "ÄPFEL")
keeps("Filter: !=", "src.process.name != 'curl'", lambda e: e["src.process.name"] != "curl")
keeps(
    "Filter: a quoted number equals the number",
    "dst.port.number = '443' or event.network.durationMs = '1.5'",
    lambda e: e["dst.port.number"] == 443 or e["event.network.durationMs"] == 1.5,
)
keeps("Filter: a quoted number equals the number", "x.text = 42", lambda e: e["x.text"] in ("42", "42.0"))
keeps(
    "Filter: a quoted number equals the number",
    "x.mixed = 5",
    lambda e: e["x.mixed"] in (5, "5") and e["x.mixed"] is not True,
)
keeps(
    "Filter: a quoted number equals the number",
    "dst.port.number = x.text",
    lambda e: equal(e["dst.port.number"], e["x.text"]),
)
keeps("Filter: = on booleans", "x.flag = false", lambda e: e["x.flag"] is False)
keeps(
    "Filter: = between fields",
    "src.port.number = dst.port.number",
    lambda e: e["src.port.number"] == e["dst.port.number"],
)
keeps(
    "Filter: < <= > >= on numbers",
    "dst.port.number < 443 and x.num >= 1 or event.network.rttUs > 40000 or x.num <= -5",
    lambda e: compare(e["dst.port.number"], 443) == -1
    and compare(e["x.num"], 1) in (0, 1)
    or compare(e["event.network.rttUs"], 40000) == 1
    or compare(e["x.num"], -5) in (-1, 0),
)
keeps(
    "Filter: < on strings is by code point",
    "x.tag < 'Red' or x.tag > 'zebra'",
    lambda e: e["x.tag"] is not None and (e["x.tag"] < "Red" or e["x.tag"] > "zebra"),
)
keeps(
    "Filter: >= <= on strings",
    "x.tag >= 'green' and x.tag <= 'red'",
    lambda e: e["x.tag"] is not None and "green" <= e["x.tag"] <= "red",
)
keeps(
    "Filter: < between a number and a quoted one",
    "dst.port.number < '443'",
    lambda e: compare(e["dst.port.number"], 443) == -1,
)
keeps(
    "Filter: < on two IP addresses",
    "dst.ip.address < '10.0.0.100'",
    lambda e: compare(e["dst.ip.address"], "10.0.0.100") == -1,
)
keeps(
    "Filter: < on two IP addresses",
    "dst.ip.address >= '2001:db8::2' and dst.ip.address <= 'fd00::1'",
    lambda e: compare(e["dst.ip.address"], "2001:db8::2") in (0, 1)
    and compare(e["dst.ip.address"], "fd00::1") in (-1, 0),
)
keeps(
    "Filter: < on two IP addresses",
    "src.ip.address > dst.ip.address",
    lambda e: compare(e["src.ip.address"], e["dst.ip.address"]) == 1,
)
keeps("Filter: f = *", "src.process.name = *", lambda e: e["src.process.name"] is not None)
keeps(
    "Filter: !(f = *)",
    "!(dst.port.number = *) and !(x.flag = *)",
    lambda e: e["dst.port.number"] is None and e["x.flag"] is None,
)
keeps(
    "Filter: f != null, f = null",
    "x.tag != null x.num = null or x.flag != *",
    lambda e: e["x.tag"] is not None and e["x.num"] is None or e["x.flag"] is None,
)
keeps(
    "Filter: contains",
    "src.process.name contains 'CUR' or src.process.name contains 'äPf'",
    lambda e: has(e["src.process.name"], "cur") or has(e["src.process.name"], "äpf"),
)
keeps(
    "Filter: contains is no pattern",
    "src.process.name contains '_' or src.process.name contains '%' or src.process.name contains '*'",
    lambda e: any(sign in (e["src.process.name"] or "") for sign in "_%*"),
)
keeps(
    "Filter: contains with a backslash",
    r"src.process.cmdline contains 'temp\\A'",
    lambda e: has(e["src.process.cmdline"], "temp\\a"),
)
keeps(
    "Filter: contains on numbers",
    "dst.port.number contains '44' or x.num contains '.5'",
    lambda e: has(e["dst.port.number"], "44") or has(e["x.num"], ".5"),
)
keeps(
    "Filter: contains a field",
    "src.process.cmdline contains src.process.name",
    lambda e: e["src.process.name"] is not None and has(e["src.process.cmdline"], e["src.process.name"]),
)
keeps(
    "Filter: matches",
    "src.process.cmdline matches 'CURL .*(org|8443)$'",
    lambda e: finds(e["src.process.cmdline"], "curl .*(org|8443)$"),
)
keeps(
    "Filter: matches",
    r"src.process.cmdline matches 'took \d+ ms|grüsse'",
    lambda e: finds(e["src.process.cmdline"], r"took \d+ ms|grüsse"),
)
keeps(
    "Filter: starts_with, ends_with",
    "src.process.name starts_with 'C' or src.process.name ends_with 'X'",
    lambda e: (lower(e["src.process.name"]) or "").startswith("c")
    or (lower(e["src.process.name"]) or "").endswith("x"),
)
keeps(
    "Filter: startswith, endswith",
    "src.process.cmdline startswith 'TOOK' or src.process.cmdline endswith 'köln'",
    lambda e: (lower(e["src.process.cmdline"]) or "").startswith("took")
    or (lower(e["src.process.cmdline"]) or "").endswith("köln"),
)
keeps(
    "Filter: :matchcase",
    "src.process.name contains:matchcase 'Cu' or src.process.name matches:matchcase '^N' or src.process.name starts_with:matchcase 'Ä' or src.process.name ends_with:matchcase 'RL'",
    lambda e: e["src.process.name"] in ("Curl", "Nginx", "ÄPFEL", "CURL"),
)
keeps(
    "Filter: :matchcase after = and in",
    "x.tag =:matchcase 'Red' or x.tag in:matchcase ('RED', 'GREEN')",
    lambda e: e["x.tag"] in ("Red", "RED"),
)
keeps(
    "Filter: :anycase",
    "x.tag =:anycase 'rED' or src.process.name in:anycase ('NGINX', 'äPFEL') or x.tag contains:anycase 'EBR'",
    lambda e: lower(e["x.tag"]) == "red"
    or lower(e["src.process.name"]) in ("nginx", "äpfel")
    or has(e["x.tag"], "ebr"),
)
keeps(
    "Filter: :anycase",
    "src.process.name matches:anycase '^C' or src.process.name starts_with:anycase 'NG' or src.process.name ends_with:anycase 'D'",
    lambda e: (lower(e["src.process.name"]) or "").startswith(("c", "ng"))
    or (lower(e["src.process.name"]) or "").endswith("d"),
)
keeps(
    "Filter: contains ('a','b')",
    "x.tag contains ('RE', 'lu') or src.process.cmdline contains:matchcase ('GRÜ', 'xyz')",
    lambda e: has(e["x.tag"], "re") or has(e["x.tag"], "lu") or has(e["src.process.cmdline"], "GRÜ", True),
)
keeps(
    "Filter: matches ('a','b')",
    "x.tag matches ('^R', '^1.$')",
    lambda e: finds(e["x.tag"], "^r") or finds(e["x.tag"], "^1.$"),
)
keeps(
    "Filter: in",
    "x.tag in ('red', 'ZEBRA', '') or dst.port.number in (21, 22, '80')",
    lambda e: e["x.tag"] in ("red", "") or e["dst.port.number"] in (22, 80),
)
keeps("Filter: in", "x.text in (42, 443, 'word')", lambda e: e["x.text"] in ("42", "42.0", "443", "word"))
keeps(
    "Filter: in with CIDR",
    "dst.ip.address in ('10.0.0.0/29', '10.0.0.9/31', '8.8.8.8')",
    lambda e: inside(e["dst.ip.address"], "10.0.0.0/29", "10.0.0.8/31", "8.8.8.8/32"),
    warns=["is taken as a network"],
)
keeps(
    "Filter: in with CIDR",
    "dst.ip.address in ('2001:db8::/64', 'fe80::/10', '0.0.0.0/1')",
    lambda e: inside(e["dst.ip.address"], "2001:db8::/64", "fe80::/10", "0.0.0.0/1"),
    warns=["is taken as a network"],
)
keeps(
    "Filter: in:anycase with CIDR",
    "src.ip.address in:anycase ('FD00::/8', '203.0.113.0/24')",
    lambda e: inside(e["src.ip.address"], "fd00::/8", "203.0.113.0/24"),
    warns=["is taken as a network"],
)
keeps(
    "Filter: x not in (…)",
    "dst.port.number not in (443, 22) and x.tag not in ('red')",
    lambda e: e["dst.port.number"] not in (443, 22) and e["x.tag"] != "red",
    warns=["negation"],
)
# free: like is case-insensitive as contains is
keeps(
    "Filter: like",
    "src.process.name like 'c_r%' or src.process.cmdline like '%sbin/%-D' or src.process.name like '%g%i%'",
    lambda e: finds(e["src.process.name"], "^c.r")
    or finds(e["src.process.cmdline"], "sbin/.*-d$")
    or finds(e["src.process.name"], "g.*i"),
)
keeps(
    "Filter: like has no other signs",
    "src.process.name like 'x*%' or src.process.cmdline like 'curl%a?b_1' or src.process.cmdline like '%.%'",
    lambda e: finds(e["src.process.name"], r"^x\*")
    or finds(e["src.process.cmdline"], r"^curl.*a\?b.1$")
    or has(e["src.process.cmdline"], "."),
)
keeps_first("Filter: * contains", "* contains 'db8::1'", lambda e: anywhere(e, "db8::1"))
keeps_first(
    "Filter: * contains", "* contains '8443' and * contains 'RED'", lambda e: anywhere(e, "8443") and anywhere(e, "red")
)
keeps_first(
    "Filter: * matches", r"* matches '^(LEFT|22)$'", lambda e: any(finds(value, "^(left|22)$") for value in e.values())
)
refuses("Filter: * is for the first filter only", "x.flag = true | filter * contains 'x'", "first")
keeps_first(
    "Filter: 'text' alone", "'two words' x.flag = true", lambda e: anywhere(e, "two words") and e["x.flag"] is True
)
keeps_first(
    'Filter: $"regex" alone',
    '$"example\\.(co|com)\\b" or $"^zeb"',
    lambda e: any(finds(value, r"example\.(co|com)\b") or finds(value, "^zeb") for value in e.values()),
)
keeps(
    "Filter: f in (subquery)",
    "event.connection.id in (event.type = 'IP Listen' x.tag = 'red' | columns event.connection.id)",
    lambda e, found={e["event.connection.id"] for e in LISTENS if e["x.tag"] == "red"}: e.get("event.connection.id")
    in found,
)
keeps(
    "Filter: the column of that name of the subquery",
    "src.process.name in (x.tag = 'red' | group n = count(), low = min(dst.port.number) by src.process.name | filter n > 15)",
    lambda e, found=[
        g["src.process.name"] for g in group(where(x_tag="red"), "src.process.name", n=len) if g["n"] > 15
    ]: e["src.process.name"]
    in found,
)
gives(
    "Filter: not in (subquery)",
    "event.type = 'IP Close' not (dst.ip.address in (event.type = 'IP Listen' dst.port.number = 22 dst.ip.address = * | columns dst.ip.address)) dst.ip.address = * | group n = count() by dst.ip.address",
    lambda: group(
        [
            e
            for e in CLOSES
            if e["dst.ip.address"]
            and e["dst.ip.address"] not in {r.get("dst.ip.address") for r in LISTENS if r.get("dst.port.number") == 22}
        ],
        "dst.ip.address",
        n=len,
    ),
)
each(
    "Filter: a ? b : c",
    {
        "dst.port.number = 443 ? 'tls' : dst.port.number = 22 ? 'ssh' : 'other'": lambda e: {443: "tls", 22: "ssh"}.get(
            e["dst.port.number"], "other"
        ),
        "x.tag ? x.tag : src.process.user": lambda e: e["x.tag"] or e["src.process.user"],
        "x.num ? 1 : 0": lambda e: 1 if e["x.num"] else 0,
    },
)
keeps(
    "Filter: a ? b : c",
    "x.flag ? dst.port.number = 443 : x.tag = 'red'",
    lambda e: e["dst.port.number"] == 443 if e["x.flag"] else e["x.tag"] == "red",
)


def plus(*parts):
    return None if any(part is None for part in parts) else sum(parts)


each(
    "Filter: + - * / %",
    {
        "x.num * 2 + x-y - 1": lambda e: (
            plus(e["x.num"] * 2, e["x-y"], -1) if None not in (e["x.num"], e["x-y"]) else None
        ),
        "dst.port.number / 2": lambda e: e["dst.port.number"] / 2 if e["dst.port.number"] is not None else None,
        "dst.port.number % 10": lambda e: e["dst.port.number"] % 10 if e["dst.port.number"] is not None else None,
        "-(x.num) + 0.25": lambda e: 0.25 - e["x.num"] if e["x.num"] is not None else None,
        "x.tag + ':' + dst.port.number": lambda e: (
            f"{e['x.tag']}:{e['dst.port.number']}" if None not in (e["x.tag"], e["dst.port.number"]) else None
        ),
    },
)
makes(
    "Filter: + - * / %",
    # free: an operation without a result is null
    {
        "7 / 2": 3.5,
        "1 + 2 * 3 - 4 / 2": 5,
        "(1 + 2) * 3": 9,
        "7 % 4": 3,
        "2 - -1": 3,
        "'a' + 1 + 2": "a12",
        "1 + 2 + 'a'": "3a",
        "1 / 0": None,
        "5 % 0": None,
        "1 + null": None,
        "1e308 * 10 > 1e308": True,
        "6 - 2 - 1": 3,
        "8 / 4 / 2": 1,
    },
)
for old, new in {
    "SrcProcName ContainsCIS 'CURL'": lambda e: has(e["src.process.name"], "curl"),
    "SrcProcCmdLine In Contains AnyCase ('TOOK', 'sshd')": lambda e: has(e["src.process.cmdline"], "took")
    or has(e["src.process.cmdline"], "sshd"),
    "SrcProcCmdLine RegExp '^curl' AND DstPort = 443": lambda e: finds(e["src.process.cmdline"], "^curl")
    and e["dst.port.number"] == 443,
    "SrcIP Is Empty OR NetConnStatus = 'BLOCKED'": lambda e: e["src.ip.address"] is None
    or e["event.network.connectionStatus"] == "BLOCKED",
    "DstPort NotIn (443, 22)": lambda e: e["dst.port.number"] not in (443, 22),
    "SrcProcName StartsWith 'N'": lambda e: (e["src.process.name"] or "").lower().startswith("n"),
}.items():
    keeps("Filter: spellings of S1QL 1.0", old, new, warns=["S1QL 1.0"])
refuses("Filter: spellings of S1QL 1.0 without a meaning", "TgtFilePath Contains 'x'", "TgtFilePath")
refuses("Filter: look-around is refused with that reason", "src.process.name matches 'a(?=b)'", "look-around")
keeps(
    "Filter: shortcuts",
    "#ip = '10.0.0.9' or #name contains 'CURL'",
    lambda e: "10.0.0.9" in (e["src.ip.address"], e["dst.ip.address"])
    or has(e["src.process.name"], "curl")
    or has(e["src.process.parent.name"], "curl"),
)
keeps(
    "Filter: shortcuts",
    "#cmdline contains 'took' and #username = 'root' or #dns contains 'EXAMPLE'",
    lambda e: has(e["src.process.cmdline"], "took")
    and e["src.process.user"] == "root"
    or has(e["event.dns.request"], "example"),
    warns=["event.dns.response"],
)
keeps(
    "Filter: an unknown field is null",
    "dst.ip.adress = null and not dst.ip.adress = 'x' and x.tag = 'red'",
    lambda e: e["x.tag"] == "red",
    warns=["dst.ip.adress", "dst.ip.address"],
)

# --- Commands

gives(
    "Commands: filter as the very first word",
    "filter event.type = 'IP Close' | filter dst.port.number = 443 | filter(x.tag = 'red') | group n = count()",
    lambda: [{"n": len([e for e in CLOSES if e["dst.port.number"] == 443 and e["x.tag"] == "red"])}],
)
gives(
    "Commands: columns, later commands see only these",
    "event.type = 'Data Loss' | sort event.id | columns event.id, stage = loss.stage, twice = loss.count * 2, loss.count | filter event.type = null | columns event.id, twice, loss.stage",
    lambda: pick(
        ordered(LOSSES, "event.id"), "event.id", twice=lambda e: e["loss.count"] * 2, **{"loss.stage": lambda e: None}
    ),
    warns=["event.type", "loss.stage"],
)
gives(
    "Commands: let",
    "event.type = 'Data Loss' | let a = loss.count + 1, b = a * 2 | let a = b - 1 | let loss.stage = upper(loss.stage) | sort event.id | nolimit",
    lambda: [
        whole(e)
        | {"a": (e["loss.count"] + 1) * 2 - 1, "b": (e["loss.count"] + 1) * 2, "loss.stage": e["loss.stage"].upper()}
        for e in ordered(LOSSES, "event.id")
    ],
    columns=False,
)
gives("Commands: events as they are", "| sort event.id | nolimit", lambda: [whole(e) for e in IN_ORDER], columns=False)
gives(
    "Commands: group, rows come sorted by the keys",
    "| group n = count(), ports = count(dst.port.number = 443) by event.type, x.flag",
    lambda: group(
        EVENTS, "event.type x.flag", n=len, ports=lambda rows: sum(e["dst.port.number"] == 443 for e in rows)
    ),
)
gives(
    "Commands: group, names of what has none",
    "| group count(), sum(dst.port.number), max( x.num )+1, low = min(x.num) by lower(x.tag), event.type = 'IP Close'",
    # An expression without a name is named by its text; `event.type = …` names it.
    lambda: group(
        EVENTS,
        {"lower(x.tag)": lambda e: lower(e["x.tag"]), "event.type": lambda e: "IP Close"},
        **{
            "count": len,
            "sum(dst.port.number)": total("dst.port.number"),
            "max( x.num )+1": lambda rows: of(max, "x.num")(rows) + 1,
            "low": of(min, "x.num"),
        },
    ),
)
gives(
    "Commands: group by name = expr",
    "event.type in ('IP Connect', 'IP Close') | group n = count() by tls = dst.port.number = 443, day = timebucket('1d')",
    lambda: group(
        CONNECTS + CLOSES, {"tls": lambda e: e["dst.port.number"] == 443, "day": lambda e: bucket(e, DAY)}, n=len
    ),
)
gives(
    "Commands: group without by",
    "event.type = 'IP Close' | group n = count(), s = sum(event.network.bytesSent), share = count(x.flag) * 100 / count()",
    lambda: [
        {
            "n": len(CLOSES),
            "s": total("event.network.bytesSent")(CLOSES),
            "share": sum(e["x.flag"] is True for e in CLOSES) * 100 / len(CLOSES),
        }
    ],
)
gives(
    "Commands: group without by, of nothing",
    "event.type = 'none' | group n = count(), s = sum(x.num), m = max(x.tag)",
    lambda: [{"n": 0, "s": None, "m": None}],
    warns=["never true"],
)
gives("Commands: group by, of nothing", "event.type = 'none' | group n = count() by x.tag", list, warns=["never true"])
gives(
    "Commands: group agg(x where cond)",
    "| group s = sum(dst.port.number where x.flag = true), c = count(where x.tag = 'red'), m = max(x.num where event.type = 'IP Close' x.num < 1000) by src.process.user",
    lambda: group(
        EVENTS,
        "src.process.user",
        s=lambda rows: total("dst.port.number")([e for e in rows if e["x.flag"]]),
        c=lambda rows: sum(e["x.tag"] == "red" for e in rows),
        m=lambda rows: of(max, "x.num")(
            [e for e in rows if e["event.type"] == "IP Close" and e["x.num"] is not None and e["x.num"] < 1000]
        ),
    ),
)
gives(
    "Commands: sorted by the keys unless a sort follows",
    "| group n = count() by x.tag | sort -n, x.tag",
    lambda: ordered(group(EVENTS, "x.tag", n=len), "-n", "x.tag"),
)
gives(
    "Commands: sort -a, +b, c",
    "| columns event.id, x.tag, x.num, dst.port.number | sort -x.tag, +x.num, -dst.port.number, event.id | nolimit",
    lambda: ordered(
        pick(EVENTS, "event.id x.tag x.num dst.port.number"), "-x.tag", "x.num", "-dst.port.number", "event.id"
    ),
)
gives(
    "Commands: sort by an expression",
    "event.type = 'IP Close' | sort -(x.num * x.num), event.id | limit 25 | columns event.id",
    lambda: pick(
        ordered([e | {"s": e["x.num"] ** 2 if e["x.num"] is not None else None} for e in CLOSES], "-s", "event.id")[
            :25
        ],
        "event.id",
    ),
)
gives(
    "Commands: limit, 10 without N",
    "| sort -event.id | limit | columns event.id",
    lambda: pick(ordered(EVENTS, "-event.id")[:10], "event.id"),
)
gives(
    "Commands: limit N", "| sort event.id | limit 1_234 | columns event.id", lambda: pick(IN_ORDER[:1234], "event.id")
)
gives(
    "Commands: limit, then more",
    "| sort event.id | limit 500 | group n = count() by x.tag | limit 3",
    lambda: group(IN_ORDER[:500], "x.tag", n=len)[:3],
)
gives(
    "Commands: a pipe gets all rows, however many",
    "| sort event.id | columns event.id",
    lambda: pick(IN_ORDER, "event.id"),
    check=lambda answer: answer["row_count"] == len(IN_ORDER) > 1000 and answer["is_cut"] is False,
)
gives(
    "Commands: group has no such limit",
    "| group n = count() by event.id",
    lambda: pick(IN_ORDER, "event.id", n=lambda e: 1),
    check=lambda answer: answer["is_cut"] is False,
)
gives(
    "Commands: parse",
    "src.process.cmdline = * | parse 'took $part$ ms' from src.process.cmdline | parse '$program$ $rest$' from src.process.cmdline | sort event.id | columns event.id, part, program, rest | nolimit",
    lambda: pick(
        [e for e in IN_ORDER if e["src.process.cmdline"] is not None],
        "event.id",
        part=lambda e: found[1] if (found := re.search("took (.*?) ms", e["src.process.cmdline"])) else None,
        # free: the last piece of a pattern takes all of the rest, across lines
        program=lambda e: e["src.process.cmdline"].partition(" ")[0] if " " in e["src.process.cmdline"] else None,
        rest=lambda e: e["src.process.cmdline"].partition(" ")[2] if " " in e["src.process.cmdline"] else None,
    ),
)
gives_any_order(
    "Commands: lookup, =",
    "event.type = 'IP Connect' | lookup service, again = service, n = rank from ports by port = dst.port.number | columns event.id, service, again, n | nolimit",
    lambda: pick(
        CONNECTS,
        "event.id",
        service=lambda e: SERVICES.get(e["dst.port.number"], (None,))[0],
        again=lambda e: SERVICES.get(e["dst.port.number"], (None,))[0],
        n=lambda e: SERVICES.get(e["dst.port.number"], (None, None))[1],
    ),
)
SERVICES = {443: ("https", 1), 22: ("ssh", 2), 80: ("http, plain", None)}
gives_any_order(
    "Commands: lookup, =:anycase",
    "event.type = 'IP Connect' | lookup kind from programs by program =:anycase src.process.name | columns event.id, kind | nolimit",
    lambda: pick(
        CONNECTS,
        "event.id",
        kind=lambda e: {"curl": "client", "nginx": "server", "äpfel": "fruit"}.get(lower(e["src.process.name"])),
    ),
)
gives_any_order(
    "Commands: lookup, =:wildcard",
    "event.type = 'IP Connect' | lookup kind from patterns by pattern =:wildcard src.process.cmdline | columns event.id, kind | nolimit",
    # `?` is one character, `*` any number of them, the rest is literal. free: case-insensitive, across lines; the first match
    lambda: pick(
        CONNECTS,
        "event.id",
        kind=lambda e: next(
            (
                kind
                for regex, kind in [("curl .*", "get"), (r"took . ms", "short"), (r".*\.exe.*", "windows")]
                if e["src.process.cmdline"] is not None and re.fullmatch(regex, e["src.process.cmdline"], re.I | re.S)
            ),
            None,
        ),
    ),
)
ZONES = [("10.0.0.0/8", "all"), ("10.0.0.8/30", "small"), ("2001:db8::/32", "docs"), ("203.0.113.7", "one")]


def zone(event):
    """Looks up an address. free: of several networks the narrowest matches"""
    found = [(network(one).prefixlen, name) for one, name in ZONES if inside(event.get("dst.ip.address"), one)]
    return max(found)[1] if found else None


gives_any_order(
    "Commands: lookup, =:cidr, in a table in JSON",
    "event.type = 'IP Connect' | lookup zone from nets by net =:cidr dst.ip.address | columns event.id, zone | nolimit",
    lambda: pick(CONNECTS, "event.id", zone=zone),
)
gives(
    "Commands: dataset",
    "| dataset 'ports' | filter port > 50 | sort port",
    lambda: [{"port": 80, "service": "http, plain", "rank": None}, {"port": 443, "service": "https", "rank": 1}],
)
gives(
    "Commands: dataset, in JSON",
    "| dataset 'nets' | group n = count() by long = len(zone) | sort long",
    lambda: [{"long": 3, "n": 2}, {"long": 4, "n": 1}, {"long": 5, "n": 1}],
)
gives(
    "Commands: savelookup",
    "event.type = 'IP Listen' dst.port.number = * | group n = count() by dst.port.number | savelookup 'seen'",
    lambda: group([e for e in LISTENS if e["dst.port.number"] is not None], "dst.port.number", n=len),
)
gives(
    "Commands: savelookup, and what it has written",
    "| dataset 'seen' | sort dst.port.number",
    lambda: group([e for e in LISTENS if e["dst.port.number"] is not None], "dst.port.number", n=len),
)
gives(
    "Commands: savelookup 'name', 'merge'",
    "| group n = count() by dst.port.number = 7_000, label = 'new' | savelookup 'seen', 'merge'",
    lambda: [{"dst.port.number": 7000, "label": "new", "n": COUNT}],
)
gives(
    "Commands: savelookup 'name', 'merge', and what it has written",
    "| dataset 'seen' | sort dst.port.number",
    lambda: ordered(
        [
            g | {"label": None}
            for g in group([e for e in LISTENS if e["dst.port.number"] is not None], "dst.port.number", n=len)
        ]
        + [{"dst.port.number": 7000, "n": COUNT, "label": "new"}],
        "dst.port.number",
    ),
)
gives(
    "Commands: savelookup without merge begins anew",
    "event.type = 'none' | group n = count() | savelookup 'seen'",
    lambda: [{"n": 0}],
    warns=["never true"],
)
gives("Commands: savelookup without merge begins anew", "| dataset 'seen'", lambda: [{"n": 0}])

LEFT = "(event.type = 'IP Connect' x.tag = 'red' | columns event.id, event.connection.id, p = dst.port.number)"
RIGHT = "(event.type = 'IP Close' | sort event.id | columns other = event.id, event.connection.id, q = dst.port.number)"
ONES = pick([e for e in CONNECTS if e["x.tag"] == "red"], "event.id event.connection.id p=dst.port.number")
OTHERS = pick(ordered(CLOSES, "event.id"), "other=event.id event.connection.id q=dst.port.number")


def joined(left, right, same, every, keep_left=False, keep_right=False):
    """Joins rows; `plain: the first matching row; sql: all`."""
    names = list(dict.fromkeys(name for row in left + right for name in row))
    rows, used = [], set()
    for row in left:
        found = [place for place, other in enumerate(right) if same(row, other)]
        found = found if every else found[:1]
        used.update(found)
        rows += [row | right[place] for place in found] or ([row] if keep_left else [])
    rows += [other for place, other in enumerate(right) if keep_right and place not in used]
    return [{name: row.get(name) for name in names} for row in rows]


def same_connection(left, right):
    return left["event.connection.id"] is not None and left["event.connection.id"] == right["event.connection.id"]


def same_port(left, right):
    return same_connection(left, right) and left["p"] is not None and left["p"] == right["q"]


for words, every, keep in [
    ("join", False, False),
    ("inner join", False, False),
    ("left join", False, True),
    ("sql inner join", True, False),
    ("sql left join", True, True),
]:
    gives_any_order(
        f"Commands: {words}",
        f"| {words} a = {LEFT}, b = {RIGHT} on event.connection.id | nolimit",
        lambda every=every, keep=keep: joined(ONES, OTHERS, same_connection, every, keep),
    )
gives_any_order(
    "Commands: join on k, a.x = b.y",
    f"| sql left join a = {LEFT}, b = {RIGHT} on event.connection.id, a.p = b.q | nolimit",
    lambda: joined(ONES, OTHERS, same_port, True, True),
)
gives_any_order(
    "Commands: sql outer join",
    f"| sql outer join a = {LEFT}, b = {RIGHT} on event.connection.id, a.p = b.q | nolimit",
    lambda: joined(ONES, OTHERS, same_port, True, True, True),
)
gives(
    "Commands: outer join",
    "| outer join (event.type = 'IP Connect' x.tag = * | group n = count() by x.tag), (event.type = 'Data Loss' x.tag = * | group m = sum(loss.count) by x.tag), (x.tag > 'r' | group k = count() by x.tag) on x.tag | sort x.tag",
    lambda: [
        {
            "x.tag": tag,
            "n": n(CONNECTS, tag),
            "m": total("loss.count")([e for e in LOSSES if e["x.tag"] == tag]),
            "k": n(EVENTS, tag) if tag > "r" else None,
        }
        for n in [lambda rows, tag: sum(e["x.tag"] == tag for e in rows) or None]
        for tag in sorted({tag for tag in TAGS if any(e["x.tag"] == tag for e in EVENTS)})
    ],
)
gives_any_order(
    "Commands: join, same names on both sides",
    "| join a = (event.type = 'Sensor Start' | group n = count() by x.tag | filter x.tag = *), b = (event.type = 'Sensor Stop' | group n = count() by x.tag | filter x.tag = *) on x.tag | columns x.tag, more = a.n - b.n",
    lambda: [
        {"x.tag": g["x.tag"], "more": g["n"] - h["n"]}
        for g in group(where(event_type="Sensor Start"), "x.tag", n=len)
        for h in group(where(event_type="Sensor Stop"), "x.tag", n=len)
        if g["x.tag"] == h["x.tag"] is not None
    ],
)
gives_any_order(
    "Commands: union",
    "event.type = 'Sensor Start' | columns event.id, a = 1 | union (event.type = 'Data Loss' | columns event.id, b = loss.count), (event.type = 'Sensor Stop' | columns event.id, a = 2, c = x.tag) | nolimit",
    lambda: [
        {
            "event.id": e["event.id"],
            "a": {"Sensor Start": 1, "Sensor Stop": 2}.get(e["event.type"]),
            "b": e["loss.count"],
            "c": e["x.tag"] if e["event.type"] == "Sensor Stop" else None,
        }
        for e in where(event_type="Sensor Start") + LOSSES + where(event_type="Sensor Stop")
    ],
)
gives(
    "Commands: union as the first command",
    "| union (event.type = 'IP Close'), (event.type = 'IP Close'), (event.type = 'Data Loss') | group n = count() by event.type",
    lambda: [{"event.type": "Data Loss", "n": len(LOSSES)}, {"event.type": "IP Close", "n": 2 * len(CLOSES)}],
)
gives(
    "Commands: transpose col on keys",
    "event.type in ('IP Connect', 'IP Close') dst.port.number = * | group n = count() by dst.port.number, event.type | transpose event.type on dst.port.number",
    lambda: group(
        [e for e in CONNECTS + CLOSES if e["dst.port.number"] is not None],
        "dst.port.number",
        **{
            kind: (lambda rows, kind=kind: sum(e["event.type"] == kind for e in rows) or None)
            for kind in ("IP Close", "IP Connect")
        },
    ),
)
gives(
    "Commands: transpose col limit N",
    "x.tag = * event.category = 'ip' | group n = count() by x.tag, event.type | sort event.type, x.tag | transpose event.type limit 2",
    lambda: group(
        [e for e in EVENTS if e["x.tag"] is not None and e["event.category"]],
        "x.tag",
        **{
            kind: (lambda rows, kind=kind: sum(e["event.type"] == kind for e in rows) or None)
            for kind in ("IP Close", "IP Connect")
        },
    ),
)
gives(
    "Commands: top K n = count() by f",
    "| top 4 n = count() by src.process.name",
    lambda: ordered(group(EVENTS, "src.process.name", n=len), "-n")[:4],
)
gives(
    "Commands: top K with other aggregates",
    "event.type = 'IP Close' | top 3 bytes = sum(event.network.bytesSent), n = count() by dst.port.number, x.flag",
    lambda: ordered(group(CLOSES, "dst.port.number x.flag", bytes=total("event.network.bytesSent"), n=len), "-bytes")[
        :3
    ],
)
during = lambda start, end, rows=EVENTS: [e for e in rows if START + start <= e["event.time"] < START + end]
LAST_DAYS = ("--since", "2025-03-10T00:00:00Z", "--until", "2025-03-12T00:00:00Z")


def beside(now, then, keys, values):
    """Returns the current rows with the values of the earlier time."""
    find = lambda row: next((other for other in then if all(other[key] == row[key] for key in keys)), {})
    return [row | {new: find(row).get(old) for old, new in values.items()} for row in now]


gives(
    "Commands: compare",
    "event.type != 'IP Listen' | group n = count() by x.tag | compare before = timeshift('-1w')",
    lambda: beside(
        *(
            group([e for e in during(*time) if e["event.type"] != "IP Listen"], "x.tag", n=len)
            for time in [(7 * DAY, 9 * DAY), (0, 2 * DAY)]
        ),
        ["x.tag"],
        {"n": "before"},
    ),
    arguments=LAST_DAYS,
)
gives(
    "Commands: compare, with several values and a moment as key",
    "| group n = count(), s = sum(dst.port.number) by day = timebucket('1d'), x.flag | compare old = timeshift('-3d') | sort -n, s",
    lambda: ordered(
        beside(
            group(
                during(7 * DAY, 9 * DAY),
                {"day": lambda e: bucket(e, DAY), "x.flag": get("x.flag")},
                n=len,
                s=total("dst.port.number"),
            ),
            group(
                during(4 * DAY, 6 * DAY),
                {"day": lambda e: bucket({"event.time": e["event.time"] + 3 * DAY}, DAY), "x.flag": get("x.flag")},
                n=len,
                s=total("dst.port.number"),
            ),
            ["day", "x.flag"],
            {"n": "old.n", "s": "old.s"},
        ),
        "-n",
        "s",
    ),
    arguments=LAST_DAYS,
)
gives(
    "Commands: dedup f, g",
    "| sort -event.id | dedup x.tag, x.flag | columns event.id, x.tag, x.flag",
    lambda: pick(first_by(ordered(EVENTS, "-event.id"), "x.tag", "x.flag"), "event.id x.tag x.flag"),
)


def sequences(rows, within, steps, *keys):
    """Returns the first and the last event of each sequence: lists of events that grow, the newest of each length."""
    found, by_key = [], {}
    rows = [row for row in rows if all(row.get(key) is not None for key in keys)]
    for row in ordered(rows, "event.time", "timestamp", "event.id"):
        growing = by_key.setdefault(tuple(row.get(key) for key in keys), {})
        fits = [length for length, step in enumerate(steps) if step(row)]
        for length in sorted(fits, reverse=True):
            if length == 0:
                growing[1] = [row]
                break
            before = growing.pop(length, None)
            if before and row["event.time"] - before[0]["event.time"] <= within:
                if length + 1 == len(steps):
                    found.append((before[0], row))
                else:
                    growing[length + 1] = before + [row]
                break
    return found


def ends(found, *keys, **fields):
    """Returns the rows of sequences: what is shown of them, and fields of the first and the last event, by name: `x=("first", field)`."""
    time = lambda event: event["event.time"]
    return [
        {key: first[key] for key in keys}
        | {"first.event.time": time(first), "last.event.time": time(last)}
        | {"durationMs": last["event.time"] - first["event.time"]}
        | {"first.event.id": first["event.id"], "last.event.id": last["event.id"]}
        | {name: (first if end == "first" else last).get(field) for name, (end, field) in fields.items()}
        for first, last in found
    ]


is_kind = lambda kind: lambda event: event["event.type"] == kind
gives_any_order(
    "Commands: sequence",
    "| sequence by src.process.name within '2h' (event.type = 'IP Listen'), (event.type = 'IP Connect' and dst.port.number = 443)",
    lambda: ends(
        sequences(
            EVENTS,
            2 * HOUR,
            [is_kind("IP Listen"), lambda e: is_kind("IP Connect")(e) and e["dst.port.number"] == 443],
            "src.process.name",
        ),
        "src.process.name",
    ),
)
gives(
    "Commands: sequence, of the newest first",
    "x.num > 0 | sequence by who = lower(src.process.user), x.flag within '1d' (x.tag = 'red'), (x.tag = 'green'), (x.num > 2) | columns who, x.flag, a = first.x.text, b = last.x.num, n = durationMs, last.event.id",
    lambda: [
        {"who": lower(first["src.process.user"]), "x.flag": first["x.flag"], "a": first["x.text"], "b": last["x.num"]}
        | {"n": last["event.time"] - first["event.time"], "last.event.id": last["event.id"]}
        for first, last in sorted(
            sequences(
                [
                    Event(event | {"who": lower(event["src.process.user"])})
                    for event in EVENTS
                    if event["x.num"] is not None and event["x.num"] > 0
                ],
                DAY,
                [
                    lambda event: event["x.tag"] == "red",
                    lambda event: event["x.tag"] == "green",
                    lambda event: event["x.num"] > 2,
                ],
                "who",
                "x.flag",
            ),
            key=lambda ends: (-ends[1]["event.time"], -ends[0]["event.time"]),
        )
    ],
)
gives_any_order(
    "Commands: sequence without keys, of events that are all alike",
    "x.flag = true | columns event.time, event.id, timestamp | sequence within '30m' (event.id = *), (event.id = *), (event.id = *) | filter first.event.id != last.event.id",
    lambda: ends(sequences([e for e in EVENTS if e["x.flag"] is True], 30 * MINUTE, [lambda event: True] * 3)),
)
gives(
    "Commands: sequence, counted",
    "| sequence by src.process.user within '6h' (event.type = 'IP Connect' direction = 'INCOMING'), (event.type = 'IP Connect' direction = 'OUTGOING') | group n = count(), longest = max(durationMs), ports = count_distinct(last.dst.port.number) by src.process.user, first.process | filter longest < '5h' | sort src.process.user, first.process",
    lambda: (
        lambda found: [
            row
            for row in group(
                [
                    {"src.process.user": last["src.process.user"], "first.src.process.name": first["src.process.name"]}
                    | {"ms": last["event.time"] - first["event.time"], "port": last["dst.port.number"]}
                    for first, last in found
                ],
                "src.process.user first.src.process.name",
                n=len,
                longest=of(max, "ms"),
                ports=lambda rows: len(set(values(rows, "port"))),
            )
            if row["longest"] < 5 * HOUR
        ]
    )(
        sequences(
            CONNECTS,
            6 * HOUR,
            [
                lambda event: event["event.network.direction"] == "INCOMING",
                lambda event: event["event.network.direction"] == "OUTGOING",
            ],
            "src.process.user",
        )
    ),
    warns=[""],
)
gives_any_order("Commands: dedup", "| columns x.tag, x.num | dedup", lambda: once(pick(EVENTS, "x.tag x.num")))

# --- Aggregates

gives(
    "Aggregates: count(), count(cond)",
    "| group count(), count(x.flag), c = count(x.tag contains 'r' and dst.port.number > 100), t = count(x.tag) by endpoint.name",
    lambda: group(
        EVENTS,
        "endpoint.name",
        **{
            "count": len,
            "count(x.flag)": lambda rows: sum(e["x.flag"] is True for e in rows),
            "c": lambda rows: sum(has(e["x.tag"], "r") and (e["dst.port.number"] or 0) > 100 for e in rows),
            "t": lambda rows: sum(truth(e["x.tag"]) for e in rows),
        },
    ),
)
gives(
    "Aggregates: sum, avg, mean, average, min, max",
    "| group s = sum(x.num), a = avg(x.num), m = mean(x.num), v = average(dst.port.number), low = min(x.num), high = max(x.num), first = min(x.tag), last = max(timestamp), f = min(x.flag) by src.process.name",
    lambda: group(
        EVENTS,
        "src.process.name",
        s=total("x.num"),
        a=of(mean, "x.num"),
        m=of(mean, "x.num"),
        v=of(mean, "dst.port.number"),
        low=of(min, "x.num"),
        high=of(max, "x.num"),
        first=of(min, "x.tag"),
        last=of(max, "timestamp"),
        f=of(min, "x.flag"),
    ),
)
gives(
    "Aggregates: of booleans, sum counts the trues",
    "| group t = sum(x.flag), u = sum(dst.port.number = 443), v = sum(event.network.preexisting) by x.tag",
    lambda: group(
        EVENTS,
        "x.tag",
        t=lambda rows: sum(e["x.flag"] is True for e in rows),
        u=lambda rows: sum(e["dst.port.number"] == 443 for e in rows),
        v=lambda rows: sum(e["event.network.preexisting"] is True for e in rows),
    ),
)
gives(
    "Aggregates: median, stddev, p10 … p999",
    "event.type = 'IP Close' | group m = median(event.network.rttUs), s = stddev(event.network.rttUs), p10(event.network.rttUs), p50(event.network.rttUs), p90(event.network.rttUs), p95(event.network.rttUs), p99(event.network.rttUs), p999(event.network.rttUs) by x.flag",
    # free: the standard deviation is that of a sample; the position between two values is computed in millionths
    digits=6,
    rows=lambda: group(
        CLOSES,
        "x.flag",
        **{"m": of(statistics.median, "event.network.rttUs"), "s": of(statistics.stdev, "event.network.rttUs")}
        | {
            f"{name}(event.network.rttUs)": of(percentile(share), "event.network.rttUs")
            for name, share in {"p10": 10, "p50": 50, "p90": 90, "p95": 95, "p99": 99, "p999": 99.9}.items()
        },
    ),
)
gives(
    "Aggregates: pct(N, x) in either order, percentile",
    "event.type = 'IP Close' | group a = pct(75, event.network.durationMs), b = pct(event.network.durationMs, 75), c = percentile(event.network.durationMs, 2.5), d = percentile(100, event.network.durationMs)",
    lambda: group(
        CLOSES,
        {},
        a=of(percentile(75), "event.network.durationMs"),
        b=of(percentile(75), "event.network.durationMs"),
        c=of(percentile(2.5), "event.network.durationMs"),
        d=of(max, "event.network.durationMs"),
    ),
)
gives(
    "Aggregates: estimate_distinct, count_distinct",
    "| group near = estimate_distinct(event.id) >= 2400 and estimate_distinct(event.id) <= 2600, d = count_distinct(event.id), t = count_distinct(x.tag), n = count_distinct(x.num), f = count_distinct(x.flag), few = estimate_distinct(x.tag)",
    lambda: [
        {"near": True, "d": COUNT}
        | {
            name: len(set(values(EVENTS, field)))
            for name, field in {"t": "x.tag", "n": "x.num", "f": "x.flag", "few": "x.tag"}.items()
        }
    ],
)
gives(
    "Aggregates: array_agg(x[, n])",
    "event.type = 'Data Loss' | sort -event.id | group a = array_agg(event.id), b = array_agg(loss.count, 3) by loss.stage",
    lambda: group(
        ordered(LOSSES, "-event.id"),
        "loss.stage",
        a=lambda rows: values(rows, "event.id"),
        b=lambda rows: values(rows, "loss.count")[:3],
    ),
)
gives(
    "Aggregates: array_agg_distinct, hacklist",
    # free: the order of the values, here sorted, and the separator
    "x.tag = * | group a = array_agg_distinct(dst.port.number), b = array_agg_distinct(x.tag, 2), h = hacklist(src.process.user) by event.type",
    lambda: group(
        [e for e in EVENTS if e["x.tag"] is not None],
        "event.type",
        a=lambda rows: sorted(set(values(rows, "dst.port.number"))) or None,
        b=lambda rows: sorted(set(values(rows, "x.tag")))[:2],
        h=lambda rows: ", ".join(sorted(set(values(rows, "src.process.user")))),
    ),
)
gives(
    "Aggregates: any, any_true, all_true",
    "| group a = any(x.tag), y = any_true(dst.port.number = 65535 and x.flag), z = all_true(dst.port.number > 21 or dst.port.number = null), w = all_true(x.num = null or x.num < 1000000), e = any(event.type) by tag = x.tag, event.type",
    lambda: group(
        EVENTS,
        {"tag": get("x.tag"), "event.type": get("event.type")},
        a=lambda rows: rows[0].get("x.tag"),
        y=lambda rows: any(e["dst.port.number"] == 65535 and e["x.flag"] for e in rows),
        z=lambda rows: all(e["dst.port.number"] is None or e["dst.port.number"] > 21 for e in rows),
        w=lambda rows: all(e["x.num"] is None or e["x.num"] < 1_000_000 for e in rows),
        e=lambda rows: rows[0]["event.type"],
    ),
)
gives(
    "Aggregates: first, last",
    "| sort -event.id | group a = first(event.id), b = last(event.id), c = first(x.tag) by src.process.name",
    lambda: group(
        ordered(EVENTS, "-event.id"),
        "src.process.name",
        a=lambda rows: rows[0]["event.id"],
        b=lambda rows: rows[-1]["event.id"],
        c=lambda rows: rows[0].get("x.tag"),
    ),
)
gives(
    "Aggregates: newest, oldest",
    "| sort x.tag, event.id | group n = newest(src.process.user), o = oldest(src.process.user), t = newest(timestamp) by endpoint.name, x.flag",
    lambda: group(
        EVENTS,
        "endpoint.name x.flag",
        n=lambda rows: max(rows, key=get("timestamp")).get("src.process.user"),
        o=lambda rows: min(rows, key=get("timestamp")).get("src.process.user"),
        t=lambda rows: max(values(rows, "timestamp")),
    ),
)
gives(
    "Aggregates: min_by(x, y), max_by(x, y)",
    "event.type = 'IP Close' event.network.rttUs = * | sort event.id | group a = min_by(event.id, event.network.rttUs), b = max_by(event.id, event.network.rttUs), c = max_by(src.process.user, timestamp) by x.tag",
    lambda: group(
        [e for e in ordered(CLOSES, "event.id") if e["event.network.rttUs"] is not None],
        "x.tag",
        a=lambda rows: min(rows, key=get("event.network.rttUs"))["event.id"],
        b=lambda rows: max(rows, key=get("event.network.rttUs"))["event.id"],
        c=lambda rows: max(rows, key=get("timestamp")).get("src.process.user"),
    ),
)


def so_far(rows, field):
    sums, sum_ = [], 0
    for row in rows:
        sum_ += row.get(field) or 0
        sums.append(sum_)
    return sums


def with_columns(rows, **columns):
    return [row | {name: made[place] for name, made in columns.items()} for place, row in enumerate(rows)]


gives(
    "Aggregates: running_sum, running_count, running_percent, percent_of_total",
    "| group n = count(), p = sum(dst.port.number) by x.tag | sort -n, x.tag | let s = running_sum(n), c = running_count(), r = running_percent(n), t = percent_of_total(p)",
    lambda: (
        lambda rows: with_columns(
            rows,
            s=so_far(rows, "n"),
            c=list(range(1, len(rows) + 1)),
            r=[100 * s / COUNT for s in so_far(rows, "n")],
            t=[100 * row["p"] / sum(values(rows, "p")) for row in rows],
        )
    )(ordered(group(EVENTS, "x.tag", n=len, p=total("dst.port.number")), "-n", "x.tag")),
)
gives(
    "Aggregates: overall_sum, _min, _max, _avg, _count",
    "event.type = 'Data Loss' | sort event.id | columns event.id, s = overall_sum(loss.count), l = overall_min(loss.count), h = overall_max(loss.count), a = overall_avg(loss.count), c = overall_count(), t = overall_max(x.tag) | limit 5",
    lambda: pick(
        ordered(LOSSES, "event.id")[:5],
        "event.id",
        s=lambda e: total("loss.count")(LOSSES),
        l=lambda e: min(values(LOSSES, "loss.count")),
        h=lambda e: max(values(LOSSES, "loss.count")),
        a=lambda e: mean(values(LOSSES, "loss.count")),
        c=lambda e: len(LOSSES),
        t=lambda e: max(values(LOSSES, "x.tag")),
    ),
)
gives(
    "Aggregates: overall_avg in a filter",
    "| group n = count() by x.tag, x.flag | filter n > overall_avg(n)",
    lambda: (lambda rows: [row for row in rows if row["n"] > mean(values(rows, "n"))])(
        group(EVENTS, "x.tag x.flag", n=len)
    ),
)

# --- Functions

each(
    "Functions: numbers",
    {
        "abs(x.num)": lambda e: abs(e["x.num"]) if e["x.num"] is not None else None,
        "ceiling(x.num)": lambda e: math.ceil(e["x.num"]) if e["x.num"] is not None else None,
        "floor(x.num)": lambda e: math.floor(e["x.num"]) if e["x.num"] is not None else None,
        "min(x.num, dst.port.number, 100)": lambda e: min(
            n for n in (e["x.num"], e["dst.port.number"], 100) if n is not None
        ),
        "max(x.num, dst.port.number, 100)": lambda e: max(
            n for n in (e["x.num"], e["dst.port.number"], 100) if n is not None
        ),
        "sqrt(x.num)": lambda e: math.sqrt(e["x.num"]) if (e["x.num"] or -1) >= 0 or e["x.num"] == 0 else None,
        "pow(x.num, 2)": lambda e: e["x.num"] ** 2 if e["x.num"] is not None else None,
    },
)
makes(
    "Functions: numbers",
    {
        "exp(1)": math.e,
        "ln(exp(2.5))": 2.5,
        "log(1000)": 3,
        "log(8, 2)": 3,
        "pow(2, 10)": 1024,
        "pow(2, 0.5)": 2**0.5,
        "abs(-2.5)": 2.5,
        "ceiling(-1.5)": -1,
        "floor(-1.5)": -2,
        "min(3, 1.5, 2)": 1.5,
        "max(-3, -1)": -1,
        "sqrt(-1)": None,
        "ln(0)": None,
        "abs(null)": None,
    },
)
each(
    "Functions: strings",
    {
        "len(src.process.cmdline)": lambda e: (
            len(e["src.process.cmdline"]) if e["src.process.cmdline"] is not None else None
        ),
        "src.process.name.len()": lambda e: (len(e["src.process.name"]) if e["src.process.name"] is not None else None),
        "lower(src.process.name)": lambda e: lower(e["src.process.name"]),
        "src.process.name.upper()": lambda e: (
            e["src.process.name"].upper() if e["src.process.name"] is not None else None
        ),
        "trim(x.text)": lambda e: e["x.text"].strip() if e["x.text"] is not None else None,
        "substr(src.process.name, 1, 2)": lambda e: (
            e["src.process.name"][1:3] if e["src.process.name"] is not None else None
        ),
        "isempty(x.tag)": lambda e: not e["x.tag"],
        "isblank(x.tag)": lambda e: not (e["x.tag"] or "").strip(),
        "string(dst.port.number)": lambda e: text(e["dst.port.number"]),
        # free: the words no, false and 0 are false
        "bool(x.flag)": lambda e: truth(e["x.flag"]),
        "number(x.text)": lambda e: number(e["x.text"]),
        "replace(src.process.cmdline, '[0-9]+', '#')": lambda e: (
            re.sub("[0-9]+", "#", e["src.process.cmdline"]) if e["src.process.cmdline"] is not None else None
        ),
    },
)
makes(
    "Functions: strings",
    {
        "len('äöü€')": 4,
        "lower('ÄB')": "äb",
        "upper('äb')": "ÄB",
        "trim('  a b\t')": "a b",
        "ltrim('  a ')": "a ",
        "rtrim(' a  ')": " a",
        "substr('abcdef', 2)": "cdef",
        "substr('abc', 1, 100)": "bc",
        "substr('abc', 7)": "",
        "isempty('')": True,
        "isempty(' ')": False,
        "isempty(null)": True,
        "isblank(' \t')": True,
        "isblank('a')": False,
        "bool('')": False,
        "bool(0)": False,
        "bool(2)": True,
        "bool('x')": True,
        "string(1.5)": "1.5",
        "string(true)": "true",
        "string(2.0)": "2",
        "number('1.50')": 1.5,
        "number('x')": None,
        "number(true)": 1,
        "replace('a1b22', '[0-9]+', '<$0>')": "a<1>b<22>",
        "replace('john smith', '(\\w+) (\\w+)', '$2 $1')": "smith john",
        "'abc'.upper().len()": 3,
    },
)
makes(
    "Functions: format",
    {
        'format("%,d of %s (%.2f%%)", 1234567, "x", 12.345678)': "1,234,567 of x (12.35%)",
        "format('%d', 7)": "7",
        "format('%5d|%-5d|%05d', 7, 7, 7)": "    7|7    |00007",
        "format('%s %s', true, 1.5)": "true 1.5",
        "format('100%%')": "100%",
        "format('%,.1f', 1234.56)": "1,234.6",
    },
)
NETWORK = {
    "net_ip": lambda a: True,
    "net_ipv4": lambda a: a.version == 4,
    "net_ipv6": lambda a: a.version == 6,
    "net_rfc1918": lambda a: inside(str(a), "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8"),
    "net_rfc4193": lambda a: inside(str(a), "fc00::/7"),
    # free: with addresses of this host and of this link
    "net_private": lambda a: inside(
        str(a),
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "fc00::/7",
        "::1/128",
        "fe80::/10",
    ),
}
for name, test in NETWORK.items():
    keeps(
        "Functions: network",
        f"{name}(dst.ip.address)",
        lambda e, test=test: e["dst.ip.address"] is not None and test(address(e["dst.ip.address"])),
    )
keeps(
    "Functions: network",
    "net_ipsubnet(dst.ip.address, '10.0.0.0/24') or net_ipsubnet(dst.ip.address, '2001:db8::/64')",
    lambda e: inside(e["dst.ip.address"], "10.0.0.0/24", "2001:db8::/64"),
)
makes(
    "Functions: network",
    {
        "net_ip('10.0.0.1')": True,
        "net_ip('10.0.0.256')": False,
        "net_ip('fe80::1')": True,
        "net_ip('curl')": False,
        "net_ipv4('::1')": False,
        "net_ipsubnet('10.1.2.3', '10.0.0.0/8')": True,
        "net_rfc1918('127.5.5.5')": True,
        "net_rfc1918('172.32.0.1')": False,
        "net_rfc4193('fd12::1')": True,
        "net_private('8.8.8.8')": False,
    },
)
URL = {
    "scheme": ["https", "http", "ftp", "https", "http", None, "http"],
    "netloc": [
        "me@www.example.org:8443",
        "example.co.uk",
        "203.0.113.7",
        "[2001:db8::1]:443",
        "a.b.example.com",
        None,
        "example.org",
    ],
    # free: the registered domain, or the address
    "domain": ["example.org", "example.co.uk", "203.0.113.7", "2001:db8::1", "example.com", None, "example.org"],
    "tld": ["org", "co.uk", None, None, "com", None, "org"],
    "path": ["/a/b", None, "/file.txt", "/x", "/", "/only/a/path", None],
    "query": ["x=1", None, None, None, "q=1&r=2", "y", None],
    "fragment": ["z", None, None, None, None, None, "top"],
    "userinfo": ["me", None, None, None, None, None, None],
    # free: what stands before the registered domain
    "subdomain": ["www", None, None, None, "a.b", None, None],
    "port": [8443, None, None, 443, None, None, None],
}
each(
    "Functions: net_url_…",
    {
        f"net_url_{part}(x.url)": lambda e, parts=parts: (
            parts[URLS.index(e["x.url"])] if e["x.url"] is not None else None
        )
        for part, parts in URL.items()
    },
)
split = lambda e: None if e["x.list"] is None else e["x.list"].split(",")
each(
    "Functions: arrays of events",
    {
        "split(x.list, ',')": split,
        "split(x.list, ',').len()": lambda e: split(e) and len(split(e)),
        "array_get(split(x.list, ','), 1)": lambda e: split(e)[1] if split(e) and len(split(e)) > 1 else None,
        "split(x.list, ',').distinct().sort()": lambda e: split(e) and sorted(set(split(e))),
        "split(x.list, ',').contains('1')": lambda e: split(e) and "1" in split(e),
        "array_to_string(split(x.list, ','), '-')": lambda e: split(e) and "-".join(split(e)),
        "extract_matches(src.process.cmdline, '[0-9]+')": lambda e: (
            None if e["src.process.cmdline"] is None else re.findall("[0-9]+", e["src.process.cmdline"])
        ),
        "split(x.list, ',').map(func(x) -> x + event.type)": lambda e: split(e)
        and [one + e["event.type"] for one in split(e)],
        "split(x.list, ',').filter(func(x) -> number(x) > dst.port.number / 10)": lambda e: split(e)
        and [
            one
            for one in split(e)
            if number(one) is not None and e["dst.port.number"] is not None and number(one) > e["dst.port.number"] / 10
        ],
        "split(x.list, ',').match_any(func(one) -> one = '1')": lambda e: split(e) and "1" in split(e),
        "split(x.list, ',').match_all(func(one) -> one matches '[0-9]')": lambda e: split(e)
        and all(re.search("[0-9]", one) for one in split(e)),
        "array(src.port.number, dst.port.number)": lambda e: [e["src.port.number"], e["dst.port.number"]],
    },
)
makes(
    "Functions: arrays",
    {
        "array(1, 2, 3)": [1, 2, 3],
        "array('a', 'b').get(1)": "b",
        "array(1, 2).get(9)": None,
        "array_get(array(5, 6), 0)": 5,
        "array_to_string(array(1, 2), '+')": "1+2",
        "array_filter(array(1, 2, 3), func(x) -> x > 1)": [2, 3],
        "array(1, 2, 3).filter(func(x) -> x > 5)": [],
        "split('a, b,c', ', *')": ["a", "b", "c"],
        "extract_matches('a1b22', '[a-z][0-9]')": ["a1", "b2"],
        "array(3, 1, 2).sort()": [1, 2, 3],
        "array(10, 9, 100).sort()": [9, 10, 100],
        "array(1, 2, 1).distinct()": [1, 2],
        "array(1, 2, 3, 4).slice(1, 3)": [2, 3],
        "array(1, 2, 3).slice(1)": [2, 3],
        "array(1).concat(array(2, 3))": [1, 2, 3],
        "array(1, 2).map(func(x) -> x * x + 0.5)": [1.5, 4.5],
        "array(1, 2).match_any(func(x) -> x = 2)": True,
        "array(1, 2).match_all(func(x) -> x = 2)": False,
        "array().len()": 0,
        "array(1, 2).contains(3)": False,
        "array('a', 'B').map(func(s) -> s.lower())": ["a", "b"],
        "array_reduce(array(1, 2, 3), 10, func(sum, x) -> sum * 2 + x)": 91,
        "array('a', 'b').reduce('', func(all, x) -> x + all)": "ba",
        "array(1, 2, 3).zip(array(4, 5), func(x, y) -> x * y)": [4, 10],
        "array_slice(array_split('a/b/c', '/'), 0, 2)": ["a", "b"],
        "array(2, 9, 4).max() - array(2, 9, 4).min()": 7,
        "array(2, 9, 4).median()": 4,
        "array(2, 9, 4).sum() / array(2, 9, 4).len()": 5,
        "array(1, 2, 2, 3).intersect(array(3, 2))": [2, 3],
        "array(2, 9, 4).sort_desc()": [9, 4, 2],
        "split('aXbxc', 'x').len()": 3,
        "split_matchcase('aXbxc', 'x').len()": 2,
    },
)


def neighbor(rows, distance, field, *keys):
    """Returns the value of the row at a distance among those with the same keys."""
    found = []
    for place, row in enumerate(rows):
        same = [at for at, other in enumerate(rows) if all(other.get(key) == row.get(key) for key in keys)]
        at = same.index(place) + distance
        found.append(rows[same[at]].get(field) if 0 <= at < len(same) else None)
    return found


gives(
    "Over rows: prev, next and by",
    "| sort event.id | limit 300 | let p = prev(x.tag), q = next(dst.port.number, 2), r = prev(event.id by src.process.user, x.flag), n = running_count(by x.tag) | columns event.id, p, q, r, n",
    lambda: (
        lambda rows: [
            {"event.id": row["event.id"], "p": p, "q": q, "r": r, "n": n}
            for row, p, q, r, n in zip(
                rows,
                neighbor(rows, -1, "x.tag"),
                neighbor(rows, 2, "dst.port.number"),
                neighbor(rows, -1, "event.id", "src.process.user", "x.flag"),
                [sum(other["x.tag"] == row["x.tag"] for other in rows[: place + 1]) for place, row in enumerate(rows)],
            )
        ]
    )(IN_ORDER[:300]),
)
gives(
    "Over rows: functions over rows within group",
    "| group n = count(), share = percent_of_total(count()), far = overall_max(count()) - count() by src.process.user",
    lambda: (
        lambda rows: with_columns(
            rows,
            share=[100 * row["n"] / COUNT for row in rows],
            far=[max(values(rows, "n")) - row["n"] for row in rows],
        )
    )(group(EVENTS, "src.process.user", n=len)),
)
gives(
    "Over rows: expand",
    "| sort event.id | limit 50 | let one = split(x.list, ',').expand() | columns event.id, one",
    lambda: [
        {"event.id": event["event.id"], "one": one} for event in IN_ORDER[:50] for one in split(event) or []
    ],
)
keeps(
    "Functions: time, timestamp is nanoseconds",
    f"timestamp > {(START + 5 * DAY) * 1_000_000}",
    lambda e: nanoseconds(e) > (START + 5 * DAY) * 1_000_000,
)
keeps(
    "Functions: time, timestamp is nanoseconds",
    "timestamp >= '2025-03-08T00:00:00Z' and timestamp < '2025-03-10T02:00:00.5+02:00'",
    lambda e: (START + 5 * DAY) * 1_000_000 <= nanoseconds(e) < (START + 7 * DAY + 500) * 1_000_000,
)
keeps(
    "Functions: time, event.time is milliseconds",
    f"event.time >= {START + 2 * DAY} event.time < {START + 5 * DAY}",
    lambda e: START + 2 * DAY <= e["event.time"] < START + 5 * DAY,
)
each(
    "Functions: time, timestamp is nanoseconds",
    {
        "floor(timestamp / 1000000000)": lambda e: math.floor(float(nanoseconds(e)) / 1e9),
        "floor(event.time / 1000)": lambda e: e["event.time"] // 1000,
        "floor((timestamp + 5000000000) / 1000000000)": lambda e: math.floor(
            float(nanoseconds(e) + 5_000_000_000) / 1e9
        ),
    },
)
each(
    "Functions: timebucket",
    {
        "timebucket('10m')": lambda e: bucket(e, 10 * MINUTE),
        'timebucket("1 minute")': lambda e: bucket(e, MINUTE),
        "timebucket(event.time, '2 hours')": lambda e: bucket(e, 2 * HOUR),
        "timebucket(timestamp, '1d')": lambda e: bucket(e, DAY),
        "timebucket('30s')": lambda e: bucket(e, 30 * SECOND),
        # free: weeks begin on Mondays
        "timebucket('1w')": lambda e: shown((START + (e["event.time"] - START) // WEEK * WEEK) * 1_000_000),
    },
)
gives(
    "Functions: timebucket in group",
    "event.type = 'IP Connect' | group n = count() by timebucket('6h')",
    lambda: group(CONNECTS, {"timebucket('6h')": lambda e: bucket(e, 6 * HOUR)}, n=len),
)
for auto in ("auto", "'auto'"):
    # free: the width; but there are several buckets, fewer than events, and nothing is lost
    gives(
        f"Functions: timebucket, {auto}",
        f"| group n = count() by t = timebucket({auto}) | group all = sum(n), several = count() > 5, few = count() < 1500",
        lambda: [{"all": COUNT, "several": True, "few": True}],
    )
each(
    "Functions: strftime",
    {
        "strftime(timestamp, '%Y-%m-%d %H:%M:%S')": lambda e: e["timestamp"][:19].replace("T", " "),
        "strftime(event.time, '%d.%m.%y, %j')": lambda e: datetime.fromtimestamp(
            e["event.time"] // 1000, timezone.utc
        ).strftime("%d.%m.%y, %j"),
        "strptime(strftime(timestamp, '%Y%m%d%H%M%S'), '%Y%m%d%H%M%S') = timebucket('1s')": lambda e: True,
    },
)
makes(
    "Functions: strptime",
    {
        "strptime('2025-03-05 13:33', '%Y-%m-%d %H:%M')": "2025-03-05T13:33:00Z",
        "strptime('05/Mar/2025:13:33:10 +0100', '%d/%b/%Y:%H:%M:%S %z')": "2025-03-05T12:33:10Z",
        "strptime('soon', '%Y')": None,
        "now() > timestamp": True,
        "strftime(now(), '%Y') >= '2025'": True,
    },
)
gives(
    "Functions: querystart, queryend, queryspan",
    "| columns a = querystart(), b = queryend(), c = queryspan('hours'), d = queryspan('days'), e = querystart('seconds'), f = queryend('ms'), g = timestamp >= querystart() and timestamp < queryend(), h = event.time >= querystart() | dedup",
    lambda: [
        {
            "a": "2025-03-10T00:00:00Z",
            "b": "2025-03-12T00:00:00Z",
            "c": 48,
            "d": 2,
            "e": (START + 7 * DAY) // 1000,
            "f": START + 9 * DAY,
            "g": True,
            "h": True,
        }
    ],
    arguments=LAST_DAYS,
)
PLACES = {
    "10.0.0.0/8": {
        "city": {"names": {"en": "Cologne", "de": "Köln"}},
        "country": {"iso_code": "DE", "names": {"en": "Germany", "de": "Deutschland"}},
        "continent": {"code": "EU", "names": {"en": "Europe", "de": "Europa"}},
        "subdivisions": [{"iso_code": "NW", "names": {"en": "North Rhine-Westphalia", "de": "Nordrhein-Westfalen"}}],
        "location": {"latitude": 50.9, "longitude": 6.95},
    },
    "192.168.0.0/16": {"country": {"iso_code": "AU", "names": {"en": "Australia"}}, "location": {"latitude": -33.5}},
    "2001:db8::/32": {"continent": {"code": "AN", "names": {"en": "Antarctica"}}},
}


def place(*path):
    """Returns the entry of the database for the destination of an event."""

    def of_event(event):
        found = next((said for net, said in PLACES.items() if inside(event["dst.ip.address"], net)), None)
        for step in path:
            found = found.get(step) if isinstance(found, dict) else found[step] if found else None
        return found

    return of_event


def location(event):
    both = [place("location", name)(event) for name in ("latitude", "longitude")]
    return None if None in both else f"{both[0]},{both[1]}"


each(
    "Functions: geo_ip_…",
    {
        "geo_ip_city(dst.ip.address)": place("city", "names", "en"),
        "geo_ip_city(dst.ip.address, 'de')": place("city", "names", "de"),
        "geo_ip_state(dst.ip.address)": place("subdivisions", 0, "names", "en"),
        "geo_ip_state(dst.ip.address, 'de')": place("subdivisions", 0, "names", "de"),
        "geo_ip_state_iso(dst.ip.address)": place("subdivisions", 0, "iso_code"),
        "geo_ip_country(dst.ip.address)": place("country", "names", "en"),
        "geo_ip_country(dst.ip.address, 'de')": place("country", "names", "de"),
        "geo_ip_country_iso(dst.ip.address)": place("country", "iso_code"),
        "geo_ip_continent(dst.ip.address)": place("continent", "names", "en"),
        "geo_ip_continent(dst.ip.address, 'de')": place("continent", "names", "de"),
        "geo_ip_continent_code(dst.ip.address)": place("continent", "code"),
        "geo_ip_location(dst.ip.address)": location,
    },
    arguments=("--config", "TABLES/netconn.toml"),
)
gives(
    "Functions: geography without an MMDB file is null, and says so",
    "| sort event.id | limit 2 | columns event.id, c = geo_ip_country(dst.ip.address)",
    lambda: [{"event.id": event["event.id"], "c": None} for event in IN_ORDER[:2]],
    warns=["MMDB"],
)
each(
    "Functions: json_object_value",
    {
        "json_object_value(x.json, 'c')": lambda e: (
            None if e["x.json"] is None else ["d", None, None, None, 'with "quotes"'][DOCUMENTS.index(e["x.json"])]
        )
    },
)
each(
    "Functions: ternary, in, matches as expressions",
    {
        "dst.port.number in (443, 22)": lambda e: e["dst.port.number"] in (443, 22),
        "src.process.name matches '^c.r' ? 'c' : null": lambda e: (
            "c" if finds(e["src.process.name"], "^c.r") else None
        ),
        "(x.tag contains 'r') = true": lambda e: has(e["x.tag"], "r"),
        "dst.ip.address in ('10.0.0.0/8') or x.flag = true": lambda e: inside(e["dst.ip.address"], "10.0.0.0/8")
        or e["x.flag"] is True,
        "not (x.tag in:anycase ('RED'))": lambda e: lower(e["x.tag"]) != "red",
    },
    warns=["is taken as a network"],
)
for tried, right in {
    "coalesce(x.tag, 'a')": "a or b",
    "ifnull(x.tag, 'a')": "a or b",
    "if(x.flag, 1, 2)": "? a : b",
    "lowercase(x.tag)": "lower(",
    "substring(x.tag, 1)": "substr(",
    "date_trunc('day', timestamp)": "timebucket(",
    "formattime(timestamp)": "strftime(",
}.items():
    refuses(
        "Functions: names that do not exist are answered with the right one",
        f"| let y = {tried}",
        tried.split("(")[0],
        right,
    )

# --- Commands in sequence: each sees the rows that the one before returns

gives(
    "Order of commands: filter after limit",
    "| sort event.id | limit 500 | filter x.flag = true | group n = count() by x.tag",
    lambda: group([e for e in IN_ORDER[:500] if e["x.flag"]], "x.tag", n=len),
)
gives(
    "Order of commands: sort after limit",
    "| sort event.id | limit 100 | sort -event.id | limit 5 | columns event.id",
    lambda: pick(ordered(IN_ORDER[:100], "-event.id")[:5], "event.id"),
)
gives(
    "Order of commands: filter after dedup",
    "| sort event.id | dedup x.tag, x.num | filter x.flag = true | sort event.id | columns event.id, x.tag, x.num",
    lambda: pick([e for e in first_by(IN_ORDER, "x.tag", "x.num") if e["x.flag"]], "event.id x.tag x.num"),
)
gives(
    "Order of commands: filter on a key after dedup",
    "| sort -event.id | dedup x.tag | filter x.tag starts_with 'r' event.id > 'e02480' | group n = count() by x.tag",
    lambda: group(
        [
            e
            for e in first_by(ordered(EVENTS, "-event.id"), "x.tag")
            if (lower(e["x.tag"]) or "").startswith("r") and e["event.id"] > "e02480"
        ],
        "x.tag",
        n=len,
    ),
)
gives(
    "Order of commands: filter after running_sum",
    "event.type = 'Data Loss' | sort event.id | let s = running_sum(loss.count) | filter loss.stage = 'disk' s > 100 | columns event.id, s | limit 7",
    lambda: pick(
        [
            row
            for row in with_columns(ordered(LOSSES, "event.id"), s=so_far(ordered(LOSSES, "event.id"), "loss.count"))
            if row["loss.stage"] == "disk" and row["s"] > 100
        ][:7],
        "event.id s",
    ),
)
gives_any_order(
    "Order of commands: filter after left join",
    f"| left join a = {LEFT}, b = {RIGHT} on event.connection.id | filter other = null | columns event.id",
    lambda: pick(
        [row for row in joined(ONES, OTHERS, same_connection, False, True) if row["other"] is None], "event.id"
    ),
)
gives(
    "Order of commands: let takes the place of a field",
    "event.type = 'Data Loss' | let event.time = loss.count, x.tag = 'all' | filter x.tag = 'all' event.time < 25 | group n = count(), m = max(event.time)",
    lambda: [
        {"n": len(found), "m": max(found)}
        for found in [[n for n in values(during(7 * DAY, 9 * DAY, LOSSES), "loss.count") if n < 25]]
    ],
    arguments=LAST_DAYS,
)
gives(
    "Order of commands: group of groups",
    "| group n = count() by x.tag, x.flag | group kinds = count(), most = max(n), names = count_distinct(x.tag) by x.flag | sort -most",
    lambda: ordered(
        group(
            group(EVENTS, "x.tag x.flag", n=len),
            "x.flag",
            kinds=len,
            most=of(max, "n"),
            names=lambda rows: len(set(values(rows, "x.tag"))),
        ),
        "-most",
    ),
)
gives(
    "Order of commands: parse, let, group",
    "event.type = 'IP Connect' | parse 'took $took=digits$ ms' from src.process.cmdline | let t = number(took) * 2 | group n = count(), s = sum(t) by took",
    lambda: group(
        CONNECTS,
        {"took": lambda e: (re.search(r"took (\d+) ms", e["src.process.cmdline"] or "") or [None, None])[1]},
        n=len,
        s=lambda rows: 14 * len(rows) if "took 7" in (rows[0].get("src.process.cmdline") or "") else None,
    ),
)
gives(
    "Order of commands: columns of the same name",
    "| sort event.id | columns x.num, event.id = 'id', x.tag = x.num | limit 3 | columns event.id, x.tag, x.num",
    lambda: [{"event.id": "id", "x.tag": e["x.num"], "x.num": e["x.num"]} for e in IN_ORDER[:3]],
)
gives(
    "Order of commands: a subquery in let, a limit in a subquery",
    "event.type = 'Data Loss' | let known = x.tag in (event.type = 'Sensor Stop' x.tag = * | group n = count() by x.tag | sort -n, x.tag | limit 3 | columns x.tag) | group n = count(known) by loss.stage, x.tag = known",
    lambda: (
        lambda tags: group(
            LOSSES,
            {"loss.stage": get("loss.stage"), "x.tag": lambda e: e["x.tag"] in tags},
            n=lambda rows: sum(e["x.tag"] in tags for e in rows),
        )
    )(
        [
            g["x.tag"]
            for g in ordered(
                group([e for e in where(event_type="Sensor Stop") if e["x.tag"] is not None], "x.tag", n=len),
                "-n",
                "x.tag",
            )[:3]
        ]
    ),
)
gives(
    "Order of commands: union of limits",
    "| union (event.type = 'IP Close' | sort event.id | limit 2 | columns event.id, v = x.num), (event.type = 'Data Loss' | sort -event.id | limit 2 | columns event.id, v = loss.stage) | filter event.id = * | sort event.id",
    # free: a column with numbers and texts is a column of texts
    lambda: ordered(
        pick(ordered(CLOSES, "event.id")[:2], "event.id", v=lambda e: text(e["x.num"]))
        + pick(ordered(LOSSES, "-event.id")[:2], "event.id", v=get("loss.stage")),
        "event.id",
    ),
)
gives_any_order(
    "Order of commands: lookup after group, by a text for a number",
    "x.text = * | group n = count() by x.text | lookup service from ports by port = x.text | filter service = * | columns x.text, n, service",
    lambda: [
        g | {"service": "https"}
        for g in group([e for e in EVENTS if e["x.text"] is not None], "x.text", n=len)
        if g["x.text"] == "443"
    ],
)
gives(
    "Order of commands: transpose of several values",
    "event.type in ('IP Connect', 'IP Close') | group n = count(), m = max(x.num) by x.flag, event.type | transpose event.type on x.flag",
    # free: the names of columns when there are several values
    lambda: group(
        CONNECTS + CLOSES,
        "x.flag",
        **{
            f"{kind} {name}": (lambda rows, kind=kind, make=make: make([e for e in rows if e["event.type"] == kind]))
            for kind in ("IP Close", "IP Connect")
            for name, make in {"n": len, "m": of(max, "x.num")}.items()
        },
    ),
)
gives(
    "Order of commands: compare after top",
    "| top 3 n = count() by x.tag | compare before = timeshift('-1w')",
    # Each week has its own first three rows: a row of this week is compared if it is also one of the week before.
    lambda: beside(
        *(ordered(group(during(*time), "x.tag", n=len), "-n")[:3] for time in [(7 * DAY, 9 * DAY), (0, 2 * DAY)]),
        ["x.tag"],
        {"n": "before"},
    ),
    arguments=LAST_DAYS,
)
gives(
    "Order of commands: join of a join, with filters behind",
    "event.type = 'IP Connect' x.tag = 'green' | columns event.id, event.connection.id | sql inner join (event.type = 'IP Close' | group closed = count() by event.connection.id), (event.type = 'IP Listen' | group heard = count() by event.connection.id) on event.connection.id | filter closed >= heard | group n = count(), c = sum(closed), h = sum(heard)",
    lambda: (
        lambda closed, heard, ones: [
            {"n": len(ones), "c": sum(closed[one] for one in ones), "h": sum(heard[one] for one in ones)}
        ]
    )(
        *(
            lambda closed, heard: (
                closed,
                heard,
                [
                    e["event.connection.id"]
                    for e in CONNECTS
                    if e["x.tag"] == "green" and closed[e["event.connection.id"]] >= heard[e["event.connection.id"]] > 0
                ],
            )
        )(Counter(values(CLOSES, "event.connection.id")), Counter(values(LISTENS, "event.connection.id")))
    ),
)
gives(
    "Order of commands: aggregates of filtered values",
    "| sort event.id | group d = count_distinct(x.tag where x.flag = true), a = array_agg(event.id, 3 where x.tag = 'red'), f = first(event.id where x.num > 2), p = p50(x.num where x.flag = false)",
    lambda: [
        {
            "d": len(set(values([e for e in EVENTS if e["x.flag"]], "x.tag"))),
            "a": [e["event.id"] for e in IN_ORDER if e["x.tag"] == "red"][:3],
            "f": next(e["event.id"] for e in IN_ORDER if (e["x.num"] or 0) > 2),
            "p": statistics.median(values([e for e in EVENTS if e["x.flag"] is False], "x.num")),
        }
    ],
    digits=6,
)
# The newest event is still known when its time is no longer a column, or an error says so: `it never fails silently`.
gives(
    "Order of commands: newest after columns",
    "event.type = 'IP Close' | columns event.id, x.flag | group n = newest(event.id), o = oldest(event.id)",
    lambda: [{"n": max(CLOSES, key=nanoseconds)["event.id"], "o": min(CLOSES, key=nanoseconds)["event.id"]}],
)
gives(
    "Order of commands: top of everything",
    "| top 100 count() by x.flag, low = lower(x.tag)",
    lambda: ordered(group(EVENTS, {"x.flag": get("x.flag"), "low": lambda e: lower(e["x.tag"])}, count=len), "-count")[
        :100
    ],
)
gives(
    "Order of commands: sort by a truth value, a text, stable",
    "| sort event.id | limit 300 | sort -x.flag | sort x.tag | columns event.id, x.flag, x.tag",
    lambda: pick(ordered(IN_ORDER[:300], "x.tag", "-x.flag"), "event.id x.flag x.tag"),
)
gives(
    "Order of commands: rows that look at others, by groups",
    "| group n = count() by x.flag, x.tag | sort x.tag, x.flag | columns x.tag, x.flag, s = running_sum(n), p = percent_of_total(n), m = overall_max(n) | filter x.flag = true",
    lambda: (
        lambda rows: [
            {"x.tag": row["x.tag"], "x.flag": True, "s": s, "p": 100 * row["n"] / COUNT, "m": max(values(rows, "n"))}
            for row, s in zip(rows, so_far(rows, "n"))
            if row["x.flag"]
        ]
    )(ordered(group(EVENTS, "x.flag x.tag", n=len), "x.tag", "x.flag")),
)

# --- Values at the edges

keeps("Edges: texts as numbers", "x.text < 43", lambda e: compare(e["x.text"], 43) == -1)
keeps(
    "Edges: texts as truth values",
    "x.text = true or x.mixed = 'true' or x.flag = 'false'",
    lambda e: e["x.text"] == "true" or e["x.mixed"] is True or e["x.flag"] is False,
)
keeps(
    "Edges: quoted numbers in in",
    "dst.port.number in ('443.0', '22', 'x') or x.num in ('2.50', 1e6)",
    lambda e: e["dst.port.number"] in (443, 22) or e["x.num"] in (2.5, 1e6),
    warns=["is a number and 'x' is not"],
)
keeps(
    "Edges: numbers beyond",
    "dst.port.number < 1e30 and event.time > -1e30 and not dst.port.number = 443.5 and dst.port.number > 442.5",
    lambda e: (e["dst.port.number"] or 0) > 442.5,
    warns=["is a whole number and 443.5 is not"],
)
keeps(
    "Edges: in with fields",
    "443 in (src.port.number, dst.port.number) or 'red' in (x.tag, src.process.user)",
    lambda e: 443 in (e["src.port.number"], e["dst.port.number"]) or e["x.tag"] == "red",
)
keeps("Edges: null in in", "x.tag in (null, 'red')", lambda e: e["x.tag"] in (None, "red"))
keeps(
    "Edges: texts of several lines",
    r"src.process.cmdline like 'two%here' or src.process.cmdline contains 'o\nl' or src.process.cmdline matches 'two\slines' or src.process.cmdline ends_with 'LINES HERE'",
    lambda e: has(e["src.process.cmdline"], "two"),
)
keeps(
    "Edges: . is no end of a line",
    "src.process.cmdline matches 'two.lines' or src.process.cmdline matches 'here$' or src.process.cmdline matches '^lines'",
    lambda e: has(e["src.process.cmdline"], "two"),
)
keeps(
    "Edges: empty texts",
    "x.tag = '' or src.process.cmdline = '' x.tag contains ''",
    lambda e: e["x.tag"] == "" or e["src.process.cmdline"] == "" and e["x.tag"] is not None,
)
keeps(
    "Edges: any-case equality of fields",
    "x.tag =:anycase src.process.user or src.process.name =:anycase src.process.parent.name",
    lambda e: lower(e["x.tag"]) == lower(e["src.process.user"])
    or lower(e["src.process.name"]) == lower(e["src.process.parent.name"]),
)
keeps(
    "Edges: != of two fields",
    "src.port.number != dst.port.number x.tag != src.process.user",
    lambda e: e["src.port.number"] != e["dst.port.number"] and e["x.tag"] != e["src.process.user"],
)
keeps(
    "Edges: not binds as far as the comparison",
    "not x.tag = 'red' and not x.flag = true or not not x.num = 1",
    lambda e: e["x.tag"] != "red" and e["x.flag"] is not True or e["x.num"] == 1,
)
keeps(
    "Edges: arithmetic in filters",
    "x.num + x-y > 3 or src.port.number - dst.port.number = 0 or x.num * 2 = x-y or len(src.process.name) % 2 = 1",
    lambda e: None not in (e["x.num"], e["x-y"])
    and (e["x.num"] + e["x-y"] > 3 or e["x.num"] * 2 == e["x-y"])
    or e["x.num"] is e["x-y"] is None
    or e["src.port.number"] is not None
    and e["src.port.number"] == e["dst.port.number"]
    or len(e["src.process.name"] or "") % 2 == 1,
)
keeps(
    "Edges: patterns of fields",
    "src.process.cmdline matches x.list or src.process.cmdline starts_with src.process.name",
    lambda e: e["x.list"] is not None
    and finds(e["src.process.cmdline"], e["x.list"])
    or e["src.process.name"] is not None
    and (lower(e["src.process.cmdline"]) or " ").startswith(lower(e["src.process.name"]))
    and e["src.process.cmdline"] is not None,
)
keeps(
    "Edges: a parenthesis after a name, words as values",
    "(x.tag)=('red')or(x.tag)in('blue')",
    lambda e: e["x.tag"] in ("red", "blue"),
)
makes(
    "Edges: order of operators",
    {
        "1 = 1 ? 2 : 3 + 4": 2,
        "false or true ? 'x' : 'y'": "x",
        "2 + 3 > 4 and not 5 > 6": True,
        "-2 * -3": 6,
        "not 1 = 2": True,
        "2 * 3 % 4": 2,
        "'a' + 'b' = 'ab'": True,
        "null or 0 or ''": "",
        "null and true": False,
        "1 < 2 and 2 < 3 ? 'yes' : 'no'": "yes",
        "'x' in ('x', 'y') and 'b' contains 'B'": True,
    },
)
# `y` may name groups; another name must not be ignored: `it never fails silently`.
makes(
    "Edges: groups in replace",
    {
        r"replace('john smith', '(\w+) (\w+)', '$2, $1')": "smith, john",
        r"replace('john smith', '(\w+) (\w+)', '$2_$1')": "smith_john",
        "replace('a.b', '[.]', '')": "ab",
        "replace('x', 'y', 'z')": "x",
    },
)
makes(
    "Edges: arrays",
    {
        "array(2, 10, 1).sort()": [1, 2, 10],
        "array('b', 'a', 'B').sort()": ["B", "a", "b"],
        "array(1, 2, 3).get(-1)": 3,
        "array(1, 2, 3).slice(-2)": [2, 3],
        "split('', ',').len()": 1,
        "split('abc', 'x')": ["abc"],
        "extract_matches('abc', 'x')": [],
        "array(array(1, 2).len(), 5).map(func(n) -> n in (2, 3) ? 'few' : 'many')": ["few", "many"],
        "array('a', 'b').match_any(func(x) -> x matches '^B$')": True,
        "array(1, 2).concat(array(3), array(4)).len()": 4,
        "array('x').contains('X')": False,
        "array(1).match_all(func(x) -> x > 5) or array().match_all(func(x) -> x > 5)": True,
    },
)
each(
    "Edges: a lambda sees the row, not a field of its name",
    {
        "split(x.list, ',').filter(func(event.id) -> event.id = '1').len()": lambda e: split(e) and split(e).count("1"),
        "array(1, 2).map(func(n) -> n + dst.port.number)": lambda e: [
            n + e["dst.port.number"] if e["dst.port.number"] is not None else None for n in (1, 2)
        ],
    },
)
gives(
    "Edges: groups by numbers with a fraction, by moments, by arrays",
    "x.num = * | group n = count() by x.num, h = timebucket('5d')",
    lambda: group(
        [e for e in EVENTS if e["x.num"] is not None], {"x.num": get("x.num"), "h": lambda e: bucket(e, 5 * DAY)}, n=len
    ),
)
gives(
    "Edges: fields not in the table, of several types",
    "| group n = count() by x.mixed",
    lambda: group(EVENTS, {"x.mixed": lambda e: text(e["x.mixed"])}, n=len),
)
# `later commands see only these`: the time is gone, which is reported as for a missing field.
gives(
    "Order of commands: timebucket after columns",
    "| columns x.tag | group n = count() by t = timebucket('1d')",
    lambda: [{"t": None, "n": COUNT}],
    warns=[""],
    check=lambda answer: len(answer["warnings"]) > 0,
)
# -0 equals 0, and 0 is not missing in either form.
gives(
    "Edges: 0 and -0 are one value",
    "x.num in (0, 3) x.flag = * | let z = x.num * (x.flag ? 1 : -1) | group n = count() by z",
    lambda: group(
        [
            {"z": e["x.num"] * (1 if e["x.flag"] else -1)}
            for e in EVENTS
            if e["x.num"] in (0, 3) and e["x.flag"] is not None
        ],
        "z",
        n=len,
    ),
)
gives(
    "Edges: 0 and -0 are one value",
    "x.num = 0 x.flag = * | let z = x.num * (x.flag ? 1 : -1) | sort z, event.id | columns event.id",
    lambda: pick([e for e in IN_ORDER if e["x.num"] == 0 and e["x.flag"] is not None], "event.id"),
)
gives(
    "Edges: 0 and -0 are one value",
    "x.num in (0, 3) x.flag = * | let z = x.num * (x.flag ? 1 : -1) | group d = count_distinct(z), a = array_agg_distinct(z), e = estimate_distinct(z)",
    lambda: [{"d": 3, "a": [-3, 0, 3], "e": 3}],
)
# free: a division by 0 is missing
gives(
    "Edges: 0 and -0 are one value",
    "x.num = 0 x.flag = * | let z = x.num * (x.flag ? 1 : -1) | group n = count((1 / z) = *), m = count((1 % z) = *)",
    lambda: [{"n": 0, "m": 0}],
)
keeps_first(
    "Edges: not of a text alone",
    "not 'two words' x.flag = true",
    lambda e: not anywhere(e, "two words") and e["x.flag"] is True,
)
keeps_first(
    "Edges: signs in a text alone",
    "'100%' or 'x_y' or 'temp\\\\a'",
    lambda e: anywhere(e, "100%") or anywhere(e, "x_y") or anywhere(e, "temp\\a"),
)

# --- Reference queries, verbatim

OUTGOING = [e for e in CONNECTS if e["event.network.direction"] == "OUTGOING"]
for filter, holds in {
    "event.type = 'IP Connect' and event.network.direction = 'OUTGOING'": lambda e: e in OUTGOING,
    "event.type = 'IP Connect' and dst.port.number = 443": lambda e: e["dst.port.number"] == 443,
    "event.type = 'IP Connect' and dst.ip.address starts_with '10.'": lambda e: (e["dst.ip.address"] or "").startswith("10."),
}.items():
    rows = lambda holds=holds: [whole(e) for e in CONNECTS if holds(e)]
    gives_any_order("Reference queries", filter, rows, columns=False)
    newest = lambda holds=holds: [{"event.time": e["event.time"]} for e in reversed(CONNECTS) if holds(e)]
    gives("Reference queries: newest first", f"{filter} | columns event.time", newest)
newest = lambda: [{"event.time": e["event.time"]} for e in reversed(CONNECTS)]
gives("Reference queries: newest first", "event.type = 'IP Connect' | columns event.time", newest)


def numbers_of(field):
    return lambda rows: len(set(values(rows, field)))


gives(
    "Reference queries",
    "event.type = 'IP Connect' | group ConnectionCount = count() by dst.ip.address, dst.port.number | sort -ConnectionCount",
    lambda: ordered(group(CONNECTS, "dst.ip.address dst.port.number", ConnectionCount=len), "-ConnectionCount"),
)
gives(
    "Reference queries",
    "event.type = 'IP Connect' and event.network.direction = 'OUTGOING' | group ConnectionCount = count(), DistinctPorts = estimate_distinct(dst.port.number) by dst.ip.address | filter DistinctPorts > 5 | sort -ConnectionCount",
    lambda: [
        row
        for row in ordered(
            group(OUTGOING, "dst.ip.address", ConnectionCount=len, DistinctPorts=numbers_of("dst.port.number")),
            "-ConnectionCount",
        )
        if row["DistinctPorts"] > 5
    ],
)
gives(
    "Reference queries",
    "event.type = 'IP Connect' and event.network.direction = 'OUTGOING' and dst.port.number in (21, 22, 25, 53, 80, 443, 993, 995) | group TransferCount = count() by src.process.name, dst.ip.address, dst.port.number | filter TransferCount > 100",
    lambda: [
        row
        for row in group(
            [e for e in OUTGOING if e["dst.port.number"] in (21, 22, 25, 53, 80, 443, 993, 995)],
            "src.process.name dst.ip.address dst.port.number",
            TransferCount=len,
        )
        if row["TransferCount"] > 100
    ],
)
gives(
    "Reference queries",
    "event.type = 'IP Connect' and dst.ip.address starts_with '192.168.' | group TargetCount = estimate_distinct(dst.ip.address) by src.ip.address, src.process.name | filter TargetCount > 20",
    lambda: [
        row
        for row in group(
            [e for e in CONNECTS if (e["dst.ip.address"] or "").startswith("192.168.")],
            "src.ip.address src.process.name",
            TargetCount=numbers_of("dst.ip.address"),
        )
        if row["TargetCount"] > 20
    ],
)
# The last two queries have matching events.
assert sum(e["src.process.name"] == "scp" for e in OUTGOING) > 100 and sum(e["src.process.name"] == "scan" for e in CONNECTS) > 20

# --- Time range

COUNTED = "| group n = count(), first = min(event.time), last = max(event.time)"


def lost_in(start, end):
    """Returns the events lost in a time range, as far as the files of that range report it."""
    return sum(e["loss.count"] for e in LOSSES if e["loss.from"] < START + end and e["loss.to"] >= START + start)


def ranged(*arguments, start, end):
    summary = lambda: group(during(start, end), {}, n=len, first=of(min, "event.time"), last=of(max, "event.time"))
    lost = lambda answer: answer["events_lost"] == lost_in(start, end)
    gives("Time range: " + " ".join(arguments), COUNTED, summary, arguments=arguments, check=lost)


# Events exist at START, START + 2d, START + 5d - 1ms, START + 5d and START + 7d: `Start inclusive, end exclusive`.
ranged("--since", "2025-03-05T00:00:00Z", "--until", "2025-03-08T00:00:00Z", start=2 * DAY, end=5 * DAY)
ranged("--since", str(START + 2 * DAY), "--until", str(START + 5 * DAY), start=2 * DAY, end=5 * DAY)
ranged("--since", str(START + 2 * DAY + 1), "--until", str(START + 5 * DAY + 1), start=2 * DAY + 1, end=5 * DAY + 1)
ranged("--since", "March 5, 2025", "--until", "March 8, 2025", start=2 * DAY, end=5 * DAY)
ranged("--since", "2025-03-05 10:30", "--until", "2025-03-08", start=2 * DAY + 10 * HOUR + 30 * MINUTE, end=5 * DAY)
ranged("--since", "2025-03-05 – 2025-03-08", start=2 * DAY, end=5 * DAY)
ranged("--last", "2025-03-05 to 2025-03-08", start=2 * DAY, end=5 * DAY)
ranged("--last", "3d", "--until", "2025-03-08", start=2 * DAY, end=5 * DAY)
ranged("--last", "1w", "--until", "2025-03-10T00:00:00Z", start=0, end=7 * DAY)
ranged("--last", "4 hours", "--until", "2025-03-08T00:00:00+01:00", start=5 * DAY - 5 * HOUR, end=5 * DAY - HOUR)
ranged("--last", "30s", "--until", "2025-03-08T00:00:00.001Z", start=5 * DAY - 30 * SECOND + 1, end=5 * DAY + 1)
ranged("--until", "2025-03-08", start=4 * DAY, end=5 * DAY)  # `Default: the last 24 hours`
for wrong in [
    ("--last", "soon"),
    ("--since", "25:00"),
    ("--last", "10"),
    ("--since", "2025-13-01"),
    ("--since", "2025-03-08", "--until", "2025-03-05"),
]:
    refuses("Time range: one that cannot be read is an error: " + " ".join(wrong), COUNTED, "", arguments=wrong)

# --- Answer and errors

gives(
    "Answer: columns and types, what was read, what was pruned, what is lost",
    "| sort event.id | columns event.id, dst.port.number, x.num, x.flag, t = timebucket('1h'), a = array(1) | limit 1",
    lambda: pick(
        ordered(during(7 * DAY, 9 * DAY), "event.id")[:1],
        "event.id dst.port.number x.num x.flag",
        t=lambda e: bucket(e, HOUR),
        a=lambda e: [1],
    ),
    arguments=LAST_DAYS,
    check=lambda answer: [column["type"] for column in answer["columns"]]
    == ["string", "integer", "number", "boolean", "time", "array"]
    and answer["events_lost"] == lost_in(7 * DAY, 9 * DAY)
    and len(during(7 * DAY, 9 * DAY)) <= answer["events_read"] <= COUNT
    and answer["bytes_read"] > 0
    and answer["elapsed_ms"] > 0
    # The earlier file has no events of this time range. This is known before the file is read only if it is Parquet.
    and answer["files"] == 2 and answer["files_pruned"] == (1 if answer["events_read"] < COUNT else 0),
)
refuses("Errors: the place and what was expected", "event.type = 'a' | columns event.id,", "expected")
refuses("Errors: a suggestion", "event.type = 'a' | colums event.id", "columns")
refuses(
    "Errors: limits end a query with a clear error",
    "| group count() by event.id",
    "did not end within",
    arguments=("--timeout", "1ms"),
)
refuses("Errors: a suggestion", "event.type = 'a' | where dst.port.number = 1", "filter")


# ---------------------------------------------------------------------------------------------------------------- running


def mmdb(networks):
    """Builds a database of networks in MaxMind's format 2.0: a binary tree, the data its leaves point to, the metadata."""

    def encode(value):
        head = lambda kind, size: bytes([kind << 5 | size]) if size < 29 else bytes([kind << 5 | 29, size - 29])
        if isinstance(value, str):
            return head(2, len(value.encode())) + value.encode()
        if isinstance(value, float):
            return head(3, 8) + struct.pack(">d", value)
        if isinstance(value, bytes):
            return value  # encoded already
        if isinstance(value, list):
            return bytes([len(value), 11 - 7]) + b"".join(map(encode, value))
        return head(7, len(value)) + b"".join(encode(name) + encode(inner) for name, inner in value.items())

    nodes, data = [[None, None]], b""
    for net, said in networks.items():
        net = ipaddress.ip_network(net)
        # The database has IPv4 networks as the IPv6 networks below ::/96.
        bits = f"{int(net.network_address):0128b}"[: net.prefixlen + (96 if net.version == 4 else 0)]
        node = 0
        for bit in bits[:-1]:
            if nodes[node][int(bit)] is None:
                nodes.append([None, None])
                nodes[node][int(bit)] = len(nodes) - 1
            node = nodes[node][int(bit)]
        nodes[node][int(bits[-1])] = ("data", len(data))
        data += encode(said)
    number = lambda to: len(nodes) if to is None else len(nodes) + 16 + to[1] if isinstance(to, tuple) else to
    tree = b"".join(number(to).to_bytes(3, "big") for node in nodes for to in node)
    of_two = lambda value: bytes([5 << 5 | 2]) + value.to_bytes(2, "big")
    of_eight = lambda value: bytes([8, 9 - 7]) + value.to_bytes(8, "big")
    about = {"node_count": bytes([6 << 5 | 4]) + len(nodes).to_bytes(4, "big"), "record_size": of_two(24)}
    about |= {"ip_version": of_two(6), "database_type": "Test-City", "languages": ["en", "de"]}
    about |= {"binary_format_major_version": of_two(2), "binary_format_minor_version": of_two(0)}
    about |= {"build_epoch": of_eight(START // 1000), "description": {"en": "places"}}
    return tree + bytes(16) + data + b"\xab\xcd\xefMaxMind.com" + encode(about)


def write_tables(folder):
    folder.mkdir()
    (folder / "ports.csv").write_text('port,service,rank\n443,https,1\n22,ssh,2\n80,"http, plain",\n')
    (folder / "programs.csv").write_text("program,kind\nCURL,client\nnginx,server\nÄpfel,fruit\n", encoding="utf-8")
    (folder / "patterns.csv").write_text("pattern,kind\ncurl *,get\ntook ? ms,short\n*.exe*,windows\n")
    (folder / "nets.json").write_text(json.dumps([{"net": net, "zone": name} for net, name in ZONES]))
    (folder / "places.mmdb").write_bytes(mmdb(PLACES))
    (folder / "netconn.toml").write_text(f'[search]\ngeo_database = "{folder}/places.mmdb"\n')


def write_events(program, folder):
    """Writes the events as two NDJSON segments and as two Parquet files, into two folders."""
    rng = random.Random(5)
    lines, parquet = folder / "lines", folder / "parquet"
    lines.mkdir()
    parquet.mkdir()
    half = next(place for place, event in enumerate(EVENTS) if event["event.time"] >= START + 5 * DAY)
    for part in EVENTS[:half], EVENTS[half:]:
        part, name = part.copy(), f"events-{part[0]['event.time']:013}.ndjson"
        rng.shuffle(part)
        written = "".join(json.dumps(event, ensure_ascii=rng.random() < 0.5) + "\n" for event in part)
        (lines / name).write_text(written, encoding="utf-8")
        shutil.copy(lines / name, parquet / name)
        subprocess.run([program, "--convert", parquet / name], check=True, stdout=subprocess.DEVNULL)
        (parquet / name).unlink()
    return [lines, parquet]


def run(program, case, events, tables):
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(tables), "TZ": "UTC"}
    arguments = [argument.replace("TABLES", str(tables)) for argument in case.arguments]
    command = [program, case.query, "-f", str(events), "--lookups", str(tables), "--format", "json", *arguments]
    done = subprocess.run(command, capture_output=True, env=environment, stdin=subprocess.DEVNULL, timeout=60)
    said = done.stderr.decode()
    answer = json.loads(done.stdout) if done.stdout else {}
    return done.returncode, said, answer


def close(left, right, digits):
    """Compares two values; numbers by their leading digits."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(close(one, other, digits) for one, other in zip(left, right))
    if (
        isinstance(left, bool)
        or isinstance(right, bool)
        or not isinstance(left, (int, float))
        or not isinstance(right, (int, float))
    ):
        return type(left) is type(right) and left == right
    return math.isclose(left, right, rel_tol=10**-digits, abs_tol=1e-12)


def apart(left, right, digits):
    """Returns the columns in which two rows differ."""
    return [
        name
        for name in left | right
        if name not in left or name not in right or not close(left[name], right[name], digits)
    ]


def sortable(row):
    """Returns a key that is equal for equal rows: 1.0 is 1."""
    whole = lambda value: int(value) if isinstance(value, float) and value.is_integer() else value
    return json.dumps({name: whole(value) for name, value in row.items()}, sort_keys=True, default=str)


def odd_ones(expected, found):
    """Returns the first rows that one side has more often than the other."""
    count = Counter(map(sortable, found))
    count.subtract(map(sortable, expected))
    more, less = [row for row, times in count.items() if times > 0], [row for row, times in count.items() if times < 0]
    return [f"  only found:    {row}" for row in more[:3]] + [f"  only expected: {row}" for row in less[:3]]


def difference(case, code, said, answer):
    """Returns how an answer differs from the expectation, or nothing."""
    if case.error is not None:
        missing = [part for part in case.error if part not in said]
        if code == 0 or code > 128 or missing or not said.strip():
            return f"expected an error that says {list(case.error)}, but it ended with {code} and said:\n{said}"
        return None
    if code != 0 or "rows" not in answer:
        return f"it ended with {code} and said:\n{said}"
    if case.expected is None:
        case.expected = case.rows()
    expected = case.expected
    names = [column["name"] for column in answer["columns"]]
    # The answer leaves missing values out.
    found = [{name: row.get(name) for name in names} for row in answer["rows"]] if case.columns else answer["rows"]
    if case.columns and expected and list(expected[0]) != names:
        return f"columns\n  expected {list(expected[0])}\n  found    {names}"
    if case.unordered:
        expected, found = sorted(expected, key=sortable), sorted(found, key=sortable)
    differing = [(place, apart(left, right, case.digits)) for place, (left, right) in enumerate(zip(expected, found))]
    differing = [(place, names) for place, names in differing if names]
    if len(expected) != len(found) or differing:
        lines = [f"{len(expected)} rows expected, {len(found)} found; {len(differing)} differ at the same place"]
        for place, names in differing[:3]:
            lines += [f"  row {place}, {names}", f"    expected {expected[place]}", f"    found    {found[place]}"]
        if len(expected) != len(found):
            lines += odd_ones(expected, found)
        return "\n".join(lines)
    warnings = json.dumps(answer["warnings"], ensure_ascii=False)
    for part in case.warns:
        if part not in warnings:
            return f"expected a warning with {part!r}, found {warnings}"
    if not case.warns and answer["warnings"]:
        return f"expected no warning, found {warnings}"
    if case.check and not case.check(answer):
        return "the answer: " + json.dumps({name: value for name, value in answer.items() if name != "rows"})
    return None


def differences(program, cases, events):
    """Runs the cases over one folder; returns the indexes of failed cases and the text to print."""
    tables = events.with_name(f"tables-{events.name}")
    write_tables(tables)
    found = [(place, case, difference(case, *run(program, case, events, tables))) for place, case in enumerate(cases)]
    return [
        (place, f"{case.row} ({events.name})\n{case.query} {' '.join(case.arguments)}\n{wrong}")
        for place, case, wrong in found
        if wrong
    ]


def main():
    program = os.path.abspath(sys.argv[1])
    word = sys.argv[2] if len(sys.argv) > 2 else ""
    cases = [case for case in CASES if word in case.row or word in case.query]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        stores = write_events(program, Path(folder))
        found = [
            block for blocks in pool.map(lambda events: differences(program, cases, events), stores) for block in blocks
        ]
    for place, block in found:
        print(f"--- {block}\n")
    equal_cases = len(cases) - len({place for place, block in found})
    print(f"{len(cases)} queries, {equal_cases} equal")
    return 0 if equal_cases == len(cases) else 1


if __name__ == "__main__":
    sys.exit(main())
