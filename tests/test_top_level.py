"""The repository as a whole: what is shipped, what the front door costs, what no file may do."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import click
import pydantic
import pytest

import fedtower
from privacy.errors import BudgetExceeded, InputError, LedgerError, PolicyRefusal
from recsys_models.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"client", "server", "recsys_models", "privacy", "simulations"}
LIBRARY = sorted(
    [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")] + [ROOT / "fedtower.py"]
)
FORBIDDEN_STEMS = {"utils", "helpers", "common"}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ------------------------------------------------------------------ what is shipped


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel as the build back end makes it, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_the_five_packages_and_the_front_door_and_nothing_else(
    wheel: zipfile.ZipFile,
) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES | {"fedtower.py"}


def test_every_folder_with_code_in_the_wheel_is_a_regular_package(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    folders = {name.rsplit("/", 1)[0] for name in names if name.endswith(".py") and "/" in name}
    assert {folder for folder in folders if f"{folder}/__init__.py" not in names} == set()


def test_the_licence_is_apache_and_travels_with_the_wheel(wheel: zipfile.ZipFile) -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.lstrip().startswith("Apache License")
    assert "END OF TERMS AND CONDITIONS" in text
    assert any(name.endswith("LICENSE") for name in wheel.namelist())


def test_every_test_folder_is_a_package() -> None:
    # Otherwise `import privacy` could find tests/privacy.
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert {_name(folder) for folder in folders if not (folder / "__init__.py").exists()} == set()


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.split(r"[\[<>=!~ ]", requirement)[0].lower() for requirement in wanted} | {"hatchling"}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {line.split("==")[0].lower(): line for line in lines}
    assert names - set(pins) == set()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)
    assert not {"fedtower", "pip", "setuptools"} & set(pins)


# ------------------------------------------------------------------ the front door


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time, fedtower\n"
        "sys.argv = ['fedtower', '--help']\n"
        "try: fedtower.main()\n"
        "except SystemExit as done: assert done.code == 0, done.code\n"
        "heavy = {'torch', 'flwr', 'opacus', 'polars', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy), 'CPU', time.process_time())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    last = done.stdout.splitlines()[-1]
    assert last.startswith("HEAVY [] CPU "), last
    assert float(last.rsplit(" ", 1)[1]) < 1.5
    assert all(command in done.stdout for command in fedtower.COMMANDS)


@pytest.mark.parametrize("location", sorted(location for location, _ in fedtower.COMMANDS.values()))
def test_every_command_leads_somewhere(location: str) -> None:
    module, attribute = location.split(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"{module} does not exist"
    assert spec.origin is not None
    names = {
        node.id if isinstance(node, ast.Name) else node.name
        for node in ast.walk(ast.parse(Path(spec.origin).read_text()))
        if isinstance(node, ast.Name | ast.FunctionDef)
    }
    assert attribute in names


def test_our_packages_are_recognised_and_foreign_ones_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fedtower.foreign_packages() == []
    for name, content in (("shadow_a", "__init__.py"), ("shadow_b", "module.py")):
        (tmp_path / name).mkdir()
        (tmp_path / name / content).touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    found = fedtower.foreign_packages(["privacy", "shadow_a", "shadow_b", "absent_c"])
    assert [entry.split(" ")[0] for entry in found] == ["shadow_a", "shadow_b", "absent_c"]
    assert "not a regular package" in found[1]


class _Limits(pydantic.BaseModel):
    epsilon: float = pydantic.Field(gt=0)
    model_config = pydantic.ConfigDict(extra="forbid")


def _raise_validation_error() -> None:
    _Limits.model_validate({"epsilon": -1, "epsilom": 2})


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            InputError("epsilon=-1 is not positive;\n give a positive one"),
            2,
            "epsilon=-1 is not positive; give",
        ),
        (DataError("column user_id is missing"), 2, "column user_id"),
        (FileNotFoundError(2, "No such file or directory", "log.csv"), 2, "log.csv: No such file"),
        (BudgetExceeded("metrics would make it 8.1 of 8"), 3, "8.1 of 8"),
        (PolicyRefusal("cohort", "2 clients are too few"), 3, "too few"),
        (LedgerError("row 3 does not follow row 2"), 4, "row 3"),
        (KeyError("x"), 1, "unexpected KeyError"),
        (click.UsageError("No such option: --epsilom"), 2, "--epsilom"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    error: Exception, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = click.Command("x", callback=lambda: _raise(error))
    with pytest.raises(SystemExit) as done:
        fedtower.run(command, [])
    out, err = capsys.readouterr()
    assert done.value.code == code
    assert out == ""
    assert err.startswith("error: ")
    assert text in err
    assert err.count("\n") == 1


def test_a_wrong_setting_is_one_line_that_names_field_and_value(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        fedtower.run(click.Command("x", callback=_raise_validation_error), [])
    err = capsys.readouterr().err
    assert done.value.code == 2
    assert err.count("\n") == 1
    for wanted in ("epsilon", "-1", "epsilom"):
        assert wanted in err


def test_a_traceback_is_shown_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDTOWER_TRACEBACK", "1")
    with pytest.raises(InputError):
        fedtower.run(click.Command("x", callback=lambda: _raise(InputError("x"))), [])


@pytest.mark.parametrize(("returned", "code"), [(None, 0), ({"a": 1}, 0), (True, 0)])
def test_what_a_command_returns_is_not_an_exit_code(returned: object, code: int) -> None:
    with pytest.raises(SystemExit) as done:
        fedtower.run(click.Command("x", callback=lambda: returned), [])
    assert done.value.code == code


# ------------------------------------------------------------------ what no file may do


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]


def faults_of(source: str) -> set[str]:
    """Name what library code must not do: asserts, pickle in any disguise, code from data."""
    tree = ast.parse(source)
    faults = {"assert" for node in ast.walk(tree) if isinstance(node, ast.Assert)}
    faults |= {"pickle"} & {"pickle" for name in _imports(tree) if name in _PICKLERS}
    for name, call in _calls(tree):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name in ("torch.load", "torch.save", "joblib.load", "eval", "exec"):
            faults.add(name)
        if keywords.get("allow_pickle", "False") != "False":
            faults.add("allow_pickle")
    return faults


_PICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


@pytest.mark.parametrize("path", LIBRARY, ids=_name)
def test_library_code_neither_asserts_nor_unpickles(path: Path) -> None:
    assert faults_of(path.read_text()) == set()


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("assert x", "assert"),
        ("import pickle", "pickle"),
        ("from cloudpickle import loads", "pickle"),
        ("torch.load(f)", "torch.load"),
        ("np.load(f, allow_pickle=True)", "allow_pickle"),
        ("np.load(f, allow_pickle=flag)", "allow_pickle"),
        ("eval(text)", "eval"),
    ],
)
def test_the_check_above_can_fail(source: str, fault: str) -> None:
    assert faults_of(source) == {fault}
    assert faults_of("np.load(f, allow_pickle=False)\nmodel.eval()") == set()


def test_no_file_is_named_for_nothing() -> None:
    assert [_name(path) for path in LIBRARY if path.stem in FORBIDDEN_STEMS] == []


# ------------------------------------------------------------------ documents


def _links(markdown: str) -> list[str]:
    prose = re.sub(r"```.*?```|`[^`]*`", "", markdown, flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", prose)


@pytest.mark.parametrize(
    "path", [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))], ids=_name
)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    local = [
        link.split("#")[0] for link in _links(path.read_text()) if not re.match(r"https?:|mailto:|#", link)
    ]
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_every_document_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    queue = [ROOT / "README.md"]
    while queue:
        path = queue.pop()
        if path in seen or not path.exists() or path.suffix != ".md":
            continue
        seen.add(path)
        queue += [(path.parent / link.split("#")[0]).resolve() for link in _links(path.read_text())]
    everything = {*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")}
    assert {_name(path) for path in everything - seen} == set()
