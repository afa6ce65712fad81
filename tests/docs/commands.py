"""Commands of the pages: taken apart, checked by the real parsers, and made small enough to be run.

As a program (``commands.py python -m ctpa_vqgan ...``) it runs a command with the small overlay of ``commands.yaml``;
that is how a block of shell runs as it stands, see ``sandbox.py``.
"""

from __future__ import annotations

import ast
import fnmatch
import inspect
import itertools
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import yaml
from pages import BUNDLE, ROOT, Block

TABLE = yaml.safe_load(Path(__file__).with_name("commands.yaml").read_text())
CONFIGS = ROOT / BUNDLE / "configs"
#: what a reader puts something else for; ``sandbox.py`` puts something there
PLACEHOLDERS = {"DATA", "EXPORT", "VOLUMES", "VOLUME.nii.gz", "PEER.ckpt", "MAPS"}
OPERATOR = re.compile(r"[;&|<>()]+")
PYTHONS = ("python", "python3")
PYTHON_SWITCHES = {"-W": 1, "-u": 0}  # and how many words each takes
Words = Sequence[str]


class NotUnderstoodError(ValueError):
    """A command that nobody could run, and why."""


# -- from text to words ------------------------------------------------------------------------------------------------


def lines(block: Block) -> Iterator[tuple[int, str]]:
    """The commands of a block of shell, with their lines in the page: continued lines and open quotes are joined."""
    kept, start = "", block.line
    for number, line in enumerate(block.text.splitlines(), start=block.line):
        start = start if kept else number
        kept += line + "\n"
        if kept.endswith("\\\n"):
            kept = kept[:-2] + " "
            continue
        try:
            words = shlex.split(kept, comments=True)
        except ValueError:  # no closing quotation yet
            continue
        if words:
            yield start, kept.rstrip("\n")
        kept = ""
    if kept.strip():
        raise NotUnderstoodError(f"{block.page}:{start}: a quote or a backslash leads out of the block")


def simple_commands(line: str) -> list[list[str]]:
    """The words of each command of a line; what stands between them (``;``, ``&``, ``|``, ``>``) divides them.

    A file behind ``>`` or ``<`` belongs to no command.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>()")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    redirected = False
    for word in lexer:
        if OPERATOR.fullmatch(word):
            redirected = word[0] in "<>"
            found += [] if redirected else [[]]
        elif redirected:
            redirected = False
        else:
            found[-1].append(word)
    return [words for words in found if words]


def without_environment(words: Words) -> list[str]:
    """A command without what is set for it alone, as in ``SHARDS=16 sbatch ...``."""
    first = next((i for i, word in enumerate(words) if not re.fullmatch(r"[A-Z_]+=.*", word)), len(words))
    return list(words[first:])


def kind(words: Words) -> tuple[str, str]:
    """Who runs a command (``never``, ``docs-check`` or ``test``), and the pattern that says so: the first that fits.

    Raises:
        NotUnderstoodError: nobody does.
    """
    text = " ".join(without_environment(words))
    for who in ("never", "docs-check", "test"):
        for pattern in TABLE[who]:
            if fnmatch.fnmatchcase(text, pattern):
                return who, pattern
    raise NotUnderstoodError(f"no pattern of tests/docs/commands.yaml says who runs: {text}")


def outputs(words: Words) -> list[str]:
    """Folders that a command writes."""
    pairs = itertools.pairwise(words)
    return [value.rstrip("/") for option, value in pairs if option in ("--output", "--output_dir")]


def is_typed_in_bundle(block: Block) -> bool:
    """Whether a block speaks from the bundle's folder, as its own pages do."""
    return "--bundle_root ." in block.text


# -- the real parsers --------------------------------------------------------------------------------------------------


def understood(words: Words, folder: Path = ROOT) -> None:
    """Check a simple command by what would read it.

    Args:
        words: as a shell would hand them on.
        folder: where it is typed; paths are relative to it.

    Raises:
        NotUnderstoodError: an unknown program, option, knob, file or placeholder.
    """
    words = without_environment(words)
    for word in words:
        value = (word.partition("=")[2] or word).partition("/")[0]
        if re.fullmatch(r"[A-Z][A-Z_]*(\.[a-z.]+)?", value) and value not in PLACEHOLDERS:
            raise NotUnderstoodError(f"{value}: expected a placeholder that all pages share, {sorted(PLACEHOLDERS)}")
    program, *rest = words
    if program not in PROGRAMS:
        raise NotUnderstoodError(f"{program}: no program that the pages may use ({', '.join(sorted(PROGRAMS))})")
    PROGRAMS[program](rest, folder)


def _need(condition: Any, message: str) -> None:
    if not condition:
        raise NotUnderstoodError(message)


def _python(words: Words, folder: Path) -> None:
    while words and words[0] in PYTHON_SWITCHES:
        words = words[1 + PYTHON_SWITCHES[words[0]] :]
    _need(words, "python alone waits for its user")
    if words[0] == "-m":
        _module(words[1], words[2:], folder)
    else:
        _script(words[0], words[1:], folder)


def _module(name: str, words: Words, folder: Path) -> None:
    modules = {"ctpa_vqgan": _front_door, "monai.bundle": _monai_bundle, "pytest": _pytest, "pip": _pip}
    modules |= {"venv": lambda words, folder: None}
    _need(name in modules, f"-m {name}: expected one of {', '.join(modules)}")
    modules[name](words, folder)


def _front_door(words: Words, folder: Path) -> None:
    from ctpa_vqgan.__main__ import _parser
    from ctpa_vqgan.cli.knobs import checked, parse_setting, read_yaml

    try:
        options = _parser().parse_args(words)
    except SystemExit as stopped:
        _need(stopped.code == 0, f"python -m ctpa_vqgan {words[0]} does not take this")
        return  # --help, --version
    settings, overlays = getattr(options, "set", []), getattr(options, "overlay", [])
    if settings or overlays:
        known = knobs_of("train" if options.name == "plan" else options.name)
        checked(dict(map(parse_setting, settings)), known, "--set")
        for overlay in overlays:
            is_left_by_a_run = overlay.startswith(("runs/", "imported/"))
            if not is_left_by_a_run:
                checked(read_yaml(folder / overlay), known, overlay)


def _monai_bundle(words: Words, folder: Path) -> None:
    import monai.bundle

    command, *rest = words
    _need(hasattr(monai.bundle, command), f"monai.bundle has no {command}")
    given = _fire_options(rest)
    parameters = inspect.signature(getattr(monai.bundle, command)).parameters
    positional = [word for word in rest[:1] if not word.startswith("--")]
    files = config_files(given.get("config_file", "[]"))
    for name in (*files, *config_files(given.get("meta_file", "[]"))):
        _need((folder / name).is_file() or Path(name).name == "model.yaml", f"{name}: no such config below {folder}")
    known = _known([folder / name for name in files if (folder / name).is_file()])
    if command == "run":
        _need(positional and positional[0] in known, f"{positional}: none of the ids that {files} have")
    for key, value in given.items():
        if key not in parameters:
            from ctpa_vqgan.cli.knobs import checked

            checked({key: yaml.safe_load(value)}, known, f"--{key}")


def _fire_options(words: Words) -> dict[str, str]:
    """``--key value`` and ``--key=value`` as MONAI's command line takes them."""
    found, rest = {}, list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            found[key] = value if equals else rest.pop(0)
    return found


def config_files(text: str) -> list[str]:
    """The files in ``--config_file``: one, or a list in Python's way."""
    return list(ast.literal_eval(text)) if text.startswith("[") else [text]


def knobs_of(workflow: str) -> dict[str, Any]:
    """The knobs of a workflow of the front door, with their defaults."""
    from ctpa_vqgan.cli.workflows import BY_FLAG, WORKFLOWS

    return _known([CONFIGS / name for name in (WORKFLOWS | BY_FLAG)[workflow].configs])


def _known(configs: Sequence[Path]) -> dict[str, Any]:
    from ctpa_vqgan.cli.knobs import known_knobs

    return known_knobs(configs)


def _torchrun(words: Words, folder: Path) -> None:
    from torch.distributed.run import get_args_parser

    try:
        options = get_args_parser().parse_args(list(words))
    except SystemExit as stopped:
        raise NotUnderstoodError("torchrun does not take this") from stopped
    inner = ["-m"] if options.module else []
    _python([*inner, options.training_script, *options.training_script_args], folder)


def _script(name: str, words: Words, folder: Path) -> None:
    path = folder / name
    _need(path.is_file() and path.suffix == ".py", f"{name}: no such script below {folder}")
    options = _options_of(path)
    for word in words:
        option = word.partition("=")[0]
        _need(not word.startswith("--") or option in options, f"{name} has no {option}, but {sorted(options)}")


def _options_of(path: Path, seen: frozenset[Path] = frozenset()) -> set[str]:
    """The options of a script and of the scripts beside it that it imports, by their ``add_argument``."""
    text = path.read_text()
    found = set(re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", text)) | {"--help"}
    for name in re.findall(
        r"^ +Fire\((\w+)\)", text, flags=re.MULTILINE
    ):  # the arguments of a function are its options
        functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == name]
        found |= {f"--{argument.arg}" for function in functions for argument in function.args.args}
    for name in re.findall(r"^(?:import|from) (\w+)", text, flags=re.MULTILINE):
        beside = path.with_name(f"{name}.py")
        if beside.is_file() and beside not in seen:
            found |= _options_of(beside, seen | {path})
    return found


def _pytest(words: Words, folder: Path) -> None:
    for word in words:
        _need(word.startswith("-") or (folder / word.partition("::")[0]).exists(), f"{word}: no such tests")


def _make(words: Words, folder: Path) -> None:
    makefile = (folder / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+(?: [\w-]+)*):(?!=)", makefile, flags=re.MULTILINE))
    targets = {target for several in targets for target in several.split()}
    for word in words:
        name, equals, _ = word.partition("=")
        if equals:
            _need(re.search(rf"^{name} \?=|\$\({name}\)", makefile, flags=re.MULTILINE), f"Makefile: no {name}")
        else:
            _need(word in targets, f"Makefile: no target {word}, but {sorted(targets)}")


def _pip(words: Words, folder: Path) -> None:
    _need(words[0] == "install", f"pip {words[0]}: only install is in use")
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    pinned = re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    for word in words[1:]:
        if word.startswith("-"):
            continue
        name, extras = re.fullmatch(r"([\w.-]+)(?:\[([\w,]+)\])?", word).groups()
        own = name in (".", "ctpa_vqgan")
        _need(own or name in pinned, f"{name}: neither this package nor one of constraints.txt")
        for extra in extras.split(",") if own and extras else ():
            _need(extra in settings["options.extras_require"], f"setup.cfg: no extra [{extra}]")


def _batch_script(words: Words, folder: Path) -> None:
    script = next((word for word in words if word.endswith(".sh")), None)
    if script is None:  # srun python ...
        command = [word for word in words if not word.startswith("--")]
        understood(command, folder)
    else:
        _need((folder / script).is_file(), f"{script}: no such script")


def _first_is(*allowed: str) -> Callable[[Words, Path], None]:
    def check(words: Words, folder: Path) -> None:
        _need(words and words[0] in allowed, f"expected one of {allowed}, found {' '.join(words)}")

    return check


def _all_are(pattern: str) -> Callable[[Words, Path], None]:
    def check(words: Words, folder: Path) -> None:
        for word in words:
            _need(re.fullmatch(pattern, word), f"{word}: expected {pattern}")

    return check


def _folder(words: Words, folder: Path) -> None:
    clone = words[0] == ROOT.name or words[0] == "ctpa_vqgan"  # what `git clone` makes
    _need(clone or (folder / words[0]).is_dir(), f"cd {words[0]}: no such folder")


PROGRAMS: dict[str, Callable[[Words, Path], None]] = {
    **dict.fromkeys(PYTHONS, _python),
    "torchrun": _torchrun,
    "make": _make,
    "pip": _pip,
    "pytest": _pytest,
    "sbatch": _batch_script,
    "srun": _batch_script,
    "tensorboard": _first_is("--logdir"),
    ".": _first_is(".venv/bin/activate"),
    "source": _first_is(".venv/bin/activate"),
    "export": _all_are(r"[A-Z_]+=.*"),
    "cd": _folder,
    "git": _first_is("clone", "pull"),
    "kill": _all_are(r"-(USR1|TERM|INT)|\$!|\$\w+"),
    "wait": _all_are(r"\$!"),
    "sleep": _all_are(r"\d+"),
    "echo": _all_are(r".*"),
    "ls": _all_are(r"[^-].*"),
}


# -- small enough to be run --------------------------------------------------------------------------------------------


def small(words: Words, overlays: Path, always: bool = True) -> list[str]:
    """The same command with a few small knobs more, so that it takes seconds.

    Args:
        words: as they stand in a page.
        overlays: folder of the overlays that :func:`write_overlays` made.
        always: also if the page has an overlay of its own, which then counts for less.
    """
    words = list(words)
    if "-m ctpa_vqgan" in " ".join(words):
        given = words[words.index("ctpa_vqgan") + 1 :]
        if "--help" in given or not (always or "--overlay" not in given):
            return words
        overlay = _overlay_for(given, overlays)
        words += ["--overlay", str(overlay)] if overlay.is_file() else []
        for condition, more in TABLE["more words"].items():
            wanted = set(condition.split()) <= set(given) and (always or shlex.split(more)[0] not in given)
            words += shlex.split(more) if wanted else []
    elif "monai.bundle" in words and "run" in words:
        place = words.index("--config_file") + 1
        files = config_files(words[place])
        run_id = words[words.index("run") + 1]
        names = [{"training": "train"}.get(run_id, run_id), *files]
        overlay = _overlay_for(names, overlays)
        words[place] = str([*files, str(overlay)]) if overlay.is_file() else words[place]
    return words


def _overlay_for(given: Words, overlays: Path) -> Path:
    """The small knobs of a workflow, those for the overlay of the page where there are such."""
    name = "sweep" if "--sweep" in given else given[0]
    named = [overlays / f"{name} with {Path(word).stem}.yaml" for word in given if word.endswith(".yaml")]
    return next((path for path in named if path.is_file()), overlays / f"{name}.yaml")


def write_overlays(folder: Path) -> Path:
    """The small knobs of each workflow as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, knobs in TABLE["small knobs"].items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(knobs))
    return folder


if __name__ == "__main__":
    program, *given = sys.argv[1:]
    real = {"python": sys.executable, "make": "/usr/bin/env"}.get(program, str(Path(sys.executable).with_name(program)))
    command = small([program, *given], Path(os.environ["DOCS_OVERLAYS"]), always=False)
    if program == "make":  # the environment of the sandbox is made, and not to be made again
        path = os.environ["PATH"].partition(":")[2]
        made = [option for target in (".venv/.installed", ".venv/.documentation") for option in ("-o", target)]
        command = ["env", f"PATH={path}", "make", *made, *given]
    os.execv(real, [real, *command[1:]])  # Python finds its packages by its first word
