"""Checks events in other programs' formats by what others publish: the golden files, or files of these names in a folder that is named.
`cargo xtask test` runs it with the packages that xtask/src/formats.rs names, and so does the live test.

OCSF: the schemas of the classes, compiled to JSON schemas. ECS and EVE: the names and types of the official schemas, kept beside this
file. CEF: a parser that netconn has no part in. Prints what is wrong and ends with 1, or prints what was checked.
"""

import ipaddress
import json
import logging
import pathlib
import re
import sys

import pycef
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

HERE = pathlib.Path(__file__).parent
FOLDER = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
TYPES = {"integer": int, "string": str, "boolean": bool}
problems = []
counts = {}


def golden(name):
    lines = (FOLDER / f"{name}.golden").read_text().split("\n")
    assert lines.pop() == "", "a golden file ends with a line feed"
    lines = [line for line in lines if not line.startswith("#")]
    counts[name] = len(lines)
    return lines


def leaves(value, way=""):
    for name, member in value.items():
        if isinstance(member, dict):
            yield from leaves(member, f"{way}{name}.")
        else:
            yield f"{way}{name}", member


def table(name):
    lines = (HERE / name).read_text().splitlines()
    return {line.split("\t")[0]: line.split("\t")[1:] for line in lines if not line.startswith("#")}


def ocsf():
    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema("1.8.0"))
    validators = {}
    for line in golden("ocsf"):
        event = json.loads(line)
        uid = event["class_uid"]
        if uid not in validators:
            name = schema.lookup_class_name_from_uid(uid)
            profiles = event["metadata"]["profiles"]
            validators[uid] = Draft202012Validator(schema.get_class_schema(name, profiles))
        assert event["type_uid"] == uid * 100 + event["activity_id"], line
        for error in validators[uid].iter_errors(event):
            problems.append(f"ocsf: {list(error.absolute_path)}: {error.message}")
    # A schema that takes everything would prove nothing.
    broken = {**event, "severity_id": "1", "nonsense": 1}
    if sum(1 for _ in validators[uid].iter_errors(broken)) < 2:
        problems.append("ocsf: the schema takes what it must refuse")


def of_ecs_type(type_name, value):
    if type_name == "long":
        return isinstance(value, int) and not isinstance(value, bool)
    if type_name == "ip":
        return isinstance(value, str) and bool(ipaddress.ip_address(value))
    if type_name == "date":
        return re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", value) is not None
    return isinstance(value, str)


def ecs():
    fields = table("ecs-9.4.0.tsv")
    for line in golden("ecs"):
        for name, value in leaves(json.loads(line)):
            if name.startswith("netconn."):
                continue
            if name not in fields:
                problems.append(f"ecs: the schema has no {name}")
                continue
            type_name, form, allowed = fields[name]
            if isinstance(value, list) != (form == "list"):
                problems.append(f"ecs: {name} is {form} in the schema")
            for one in value if isinstance(value, list) else [value]:
                if not of_ecs_type(type_name, one) or (allowed and one not in allowed.split(",")):
                    problems.append(f"ecs: {name} cannot be {one!r}")


def eve():
    members = table("eve-members.tsv")
    stamp = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d+[+\-]\d+")
    for line in golden("eve"):
        event = json.loads(line)
        event.pop("netconn", None)
        for name, value in leaves(event):
            if name not in members:
                problems.append(f"eve: the schema has no {name}")
            elif type(value) is not TYPES[members[name][0]]:
                problems.append(f"eve: {name} cannot be {value!r}")
        for moment in [event["timestamp"], event.get("flow", {}).get("start"), event.get("flow", {}).get("end")]:
            if moment is not None and not stamp.fullmatch(moment):
                problems.append(f"eve: {moment} is no moment")


def cef():
    logging.disable(logging.CRITICAL)
    for line in golden("cef"):
        event = pycef.parse(line)
        if not event or event["DeviceVendor"] != "netconn" or not event["DeviceSeverity"].isdigit():
            problems.append(f"cef: {line}")
        elif "externalId" not in event or not event["rt"].isdigit():
            problems.append(f"cef: no values in {line}")


def zeek():
    """Reads columns as Zeek's own readers do: by the types of the head."""
    tables = (HERE / "zeek-tsv.values").read_text()
    names = re.findall(r"^(?! |\[)(.+)$", tables, re.M)
    for tabbed, line in zip(golden("zeek-tsv"), golden("zeek"), strict=True):
        cells = tabbed.split("\t")
        event = json.loads(line)
        if len(cells) != len(names):
            problems.append(f"zeek-tsv: {len(cells)} columns for {len(names)} names")
        for name, cell in zip(names, cells):
            value = event.get(name)
            if isinstance(value, bool):
                value = "T" if value else "F"
            elif isinstance(value, (int, float)):
                cell = float(cell)
            elif value == "":
                value = "(empty)"
            elif value is None:
                value = "-"
            else:
                unescaped = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), cell.encode())
                cell = unescaped.decode()
            if cell != value:
                problems.append(f"zeek-tsv: {name} is {cell!r}, in JSON {value!r}")


for check in [ocsf, ecs, eve, cef, zeek]:
    check()
for problem in problems[:30]:
    print(problem)
if problems:
    sys.exit(f"{len(problems)} problems")
print("checked:", ", ".join(f"{name} {count}" for name, count in counts.items()))
