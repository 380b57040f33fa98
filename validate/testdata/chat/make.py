"""Renders conversations.json by the templates here with jinja2, in the environment that
transformers makes, into expected.json. Usage: python make.py (needs jinja2 3.1)."""
import json
import pathlib

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


here = pathlib.Path(__file__).parent
env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = lambda form: "26 Jul 2024"
expected = {}
for file in sorted(here.glob("*.jinja")):
    template = env.from_string(file.read_text(encoding="utf-8"))
    expected[file.stem] = {}
    for name, variables in json.loads((here / "conversations.json").read_text(encoding="utf-8")).items():
        try:
            text = template.render(bos_token="<s>", eos_token="</s>", **variables)
        except jinja2.exceptions.TemplateError as e:
            text = "raises: " + str(e)
        expected[file.stem][name] = text
(here / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
