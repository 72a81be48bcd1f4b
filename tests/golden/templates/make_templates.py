#!/usr/bin/env python3
"""Makes the golden results of the template specs with jinja2 in transformers' own environment.

  make_templates.py [TEMPLATES_DIR [GGUF ...]]

TEMPLATES_DIR holds *.jinja files; of each GGUF file the chat template inside is taken, under the file's name. Writes
beside itself conversations.json (the inputs), expected.json (results by template, in the order of the inputs) and
expressions.json (small templates with their results). Needs transformers, jinja2, gguf.

A result is "LENGTH:HASH" of the text in UTF-8, or {"error": type, "message": text} (long messages as "digest").
HASH is checked by tests/lua/template_spec.lua with the same function. Without arguments, only expressions.json is
made.
"""

import datetime
import glob
import json
import os
import re
import sys

os.environ["TZ"] = "UTC"

import jinja2
from transformers.utils import chat_template_utils as utils

from conversations import CASES
from expressions import EXPRESSIONS, VARS

HERE = os.path.dirname(os.path.abspath(__file__))


class FixedDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime(2024, 7, 4, 13, 5, 9)


utils.datetime = FixedDatetime


def digest(text):
    data = text.encode("utf-8", "surrogatepass")
    a, b = 7, 11
    for byte in data:
        a = (a * 257 + byte) % 2147483647
        b = (b * 263 + byte) % 4294967291
    return f"{len(data)}:{a:08x}{b:08x}"


def error(e):
    message = str(e)
    if len(message) > 120:
        return {"error": type(e).__name__, "digest": digest(message)}
    return {"error": type(e).__name__, "message": message}


def render(source, case):
    case = {k: v for k, v in case.items() if k != "name"}
    try:
        rendered, _ = utils.render_jinja_template([case.pop("messages")], chat_template=source, **case)
    except Exception as e:
        return error(e)
    return digest(rendered[0])


def gguf_template(path):
    from gguf import GGUFReader

    field = GGUFReader(path).fields.get("tokenizer.chat_template")
    return field and bytes(field.parts[field.data[0]]).decode("utf-8")


def expression_result(case):
    try:
        template = utils._compile_jinja_template(case["template"])
        return {"text": template.render(**VARS)}
    except jinja2.TemplateSyntaxError as e:
        return {"error": type(e).__name__, "message": e.message, "line": e.lineno}
    except Exception as e:
        return error(e)


def write(name, data, per_line):
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as f:
        f.write(per_line(data))


def lines_of_list(items):
    return "[\n" + ",\n".join(json.dumps(i, ensure_ascii=False) for i in items) + "\n]\n"


def lines_of_dict(d):
    rows = (json.dumps(k) + ": " + json.dumps(v, ensure_ascii=False, separators=(",", ":")) for k, v in d.items())
    return "{\n" + ",\n".join(rows) + "\n}\n"


def make_expected():
    sources = {}
    for path in sorted(glob.glob(os.path.join(sys.argv[1], "*.jinja"))):
        sources[os.path.basename(path)] = open(path, encoding="utf-8").read()
    for path in sorted(sys.argv[2:], key=os.path.basename):
        template = gguf_template(path)
        if template:
            sources[os.path.basename(path)] = template
    expected = {}
    for name, source in sources.items():
        expected[name] = [render(source, case) for case in CASES]
    write("conversations.json", CASES, lines_of_list)
    write("expected.json", expected, lines_of_dict)
    n = sum(len(r) for r in expected.values())
    bad = sum(isinstance(r, dict) for row in expected.values() for r in row)
    print(f"{len(expected)} templates, {n} results of which {bad} errors")


def make_expressions():
    results, address = [], re.compile(r"0x[0-9a-f]{6,}")
    internal = re.compile(r"do_\w+\(|cannot be interpreted as an integer|update sequence")
    for case in EXPRESSIONS:
        result = expression_result(case)
        if address.search(json.dumps(result)):
            continue  # Python's memory addresses: no result to compare
        if internal.search(result.get("message", "")):
            del result["message"]  # names Python functions of jinja2
        results.append({**case, **result})
    write("expressions.json", [{"vars": VARS}] + results, lines_of_list)
    print(f"{len(results)} expressions")


def main():
    make_expressions()
    if len(sys.argv) > 1:
        make_expected()


if __name__ == "__main__":
    main()
