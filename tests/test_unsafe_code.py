"""Neither the package nor its configs has a way to run what it reads: their syntax trees say so."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "ctpa_vqgan").rglob("*.py"))
CONFIGS = sorted((ROOT / "bundles/ctpa_vqgan/configs").glob("*.yaml")) + sorted((ROOT / "configs").glob("*.yaml"))

MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code", "runpy"}
BUILTINS = {"eval", "exec", "__import__"}
NAMES = {
    *(f"builtins.{name}" for name in BUILTINS),
    *(f"os.{name}" for name in ("system", "popen", "execv", "execve", "execvp", "execl", "spawnv", "spawnl")),
    *(f"subprocess.{name}" for name in ("getoutput", "getstatusoutput")),
    *(f"yaml.{kind}{which}" for kind in ("", "full_", "unsafe_") for which in ("load", "load_all")),
    *(f"yaml.{kind}Loader" for kind in ("", "C", "Full", "CFull", "Unsafe", "CUnsafe")),
    *(f"torch.{name}" for name in ("jit.load", "hub.load", "package.PackageImporter")),
    "torch.serialization.add_safe_globals",
    "asyncio.create_subprocess_shell",
}
TORCH_LOAD = {"torch.load", "torch.serialization.load"}
NUMPY_LOAD = {"numpy.load", "numpy.lib.npyio.load"}
MUST_BE = {"weights_only": True, "allow_pickle": False, "shell": False}


def unsafe(text: str) -> list[str]:
    """What a source may not hold, with its lines."""
    tree = ast.parse(text)
    aliases, found, checked = {}, [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            aliases |= {alias.asname or alias.name.split(".")[0]: alias.asname and alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found += [(node.lineno, name) for name in names if name in NAMES]
        else:
            continue
        found += [(node.lineno, name) for name in names if name.split(".")[0] in MODULES]

    def dotted(node):
        if isinstance(node, ast.Attribute):
            before = dotted(node.value)
            return before and f"{before}.{node.attr}"
        return (aliases.get(node.id) or node.id) if isinstance(node, ast.Name) else None

    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name, keywords = dotted(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
            for keyword, expected in MUST_BE.items():
                value = keywords.get(keyword)
                if value is not None and not (isinstance(value, ast.Constant) and value.value is expected):
                    found.append((node.lineno, keyword))
            if name in TORCH_LOAD and "weights_only" in keywords:
                checked.add(node.func)
            if name in NUMPY_LOAD and len(node.args) <= 2 and None not in keywords:
                checked.add(node.func)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = dotted(node)
            loads = name in TORCH_LOAD | NUMPY_LOAD and node not in checked  # called unsafely, or handed on
            if loads or name in NAMES or (isinstance(node, ast.Name) and name in BUILTINS):
                found.append((node.lineno, name))
            elif isinstance(node, ast.Attribute) and node.attr in ("read_pickle", "to_pickle", "__builtins__"):
                found.append((node.lineno, node.attr))
    return [f"line {line}: {name}" for line, name in sorted(set(found))]


@pytest.mark.parametrize(
    "snippet",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads as harmless",
        "def late():\n    import dill",
        "import joblib.numpy_pickle",
        "eval('1')",
        "f = eval",
        "exec('x = 1')",
        "__import__('os')",
        "import builtins as b\nb.eval('1')",
        "from builtins import exec as run",
        "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
        "import yaml as y\ny.unsafe_load(text)",
        "from yaml import full_load as safe_load",
        "import yaml\nclass Mine(yaml.UnsafeLoader): pass",
        "import yaml\nyaml.Loader(text)",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess as s\ns.Popen('ls', shell=flag)",
        "from subprocess import getoutput",
        "import os\nos.system('ls')",
        "from os import system as s",
        "import os as o\no.popen('ls')",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=flag)",
        "import torch\ntorch.load(path, **options)",
        "from torch import load as read\nread(path)",
        "import torch\nreaders = map(torch.load, paths)",
        "import torch as t\nt.hub.load('a/b', 'c')",
        "import torch\ntorch.jit.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, None, True)",
        "import numpy\nnumpy.load(path, **options)",
        "import numpy as np\nnp.lib.format.read_array(file, allow_pickle=1)",
        "something.load(path, weights_only=False)",
        "import pandas as pd\npd.read_pickle(path)",
    ],
)
def test_what_may_not_be_is_found(snippet):
    assert unsafe(snippet)


@pytest.mark.parametrize(
    "snippet",
    [
        "network.eval()",
        "import re\nre.compile('a')",
        "import torch\ntorch.compile(network)\ntorch.load(path, map_location='cpu', weights_only=True)",
        "import yaml\nyaml.safe_load(text)",
        "import numpy as np\nnp.load(path, allow_pickle=False)\nnp.load(path)",
        "import subprocess\nsubprocess.run(['git', 'log'], shell=False)",
    ],
)
def test_what_may_be_is_left_alone(snippet):
    assert unsafe(snippet) == []


def test_no_file_of_the_package_can_run_what_it_reads():
    assert len(SOURCES) > 80
    found = {path.relative_to(ROOT).as_posix(): unsafe(path.read_text()) for path in SOURCES}
    assert {name: lines for name, lines in found.items() if lines} == {}


def expressions(value):
    """The ``$`` expressions of a config, as Python."""
    if isinstance(value, str) and value.startswith("$"):
        yield re.sub(r"@([\w:]+)", lambda match: match[1].replace("::", "_"), value[1:])
    elif isinstance(value, (dict, list)):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from expressions(entry)


def test_no_expression_of_the_configs_can_either_and_each_calls_what_is_known():
    found = [text for path in CONFIGS for text in expressions(yaml.safe_load(path.read_text()))]
    assert len(found) > 30
    assert {text for text in found if unsafe(text)} == set()
    imports = [text for text in found if "import" in text]
    assert set(imports) == {"import ctpa_vqgan.bundle as bundle"}
    for text in set(found) - set(imports):
        called = {node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)}
        names = {node.id for node in called if isinstance(node, ast.Name)}
        assert names <= {"max", "min", "len", "int", "float", "str"}, f"{text}: only the package's own functions"
