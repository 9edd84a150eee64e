"""What an installation promises: one name per module, no framework at import, and rules that hold in every file."""

import ast
import importlib.metadata
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import experimentator.graph
import experimentator.ops
from experimentator.version import __version__

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    path.relative_to(ROOT)
    for room in ("experimentator", "graph", "ops")
    for path in (ROOT / room).rglob("*.py")
    if not {"graph", "ops"} & set(path.relative_to(ROOT / room).parts)
)
LONGEST_MODULE = 350
IMPORT_BUDGET = 0.25
FRAMEWORKS = {"tensorflow", "keras", "jax", "torch"}
SENDS_TO_ITS_OWN = {"experimentator/loading/processes.py"}  # reads no file: what it unpickles, this process has pickled
UNSAFE_LOADERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "joblib", "shelve"}

every_module = pytest.mark.parametrize("module", MODULES, ids=str)


def imports(module: Path) -> Iterator[str]:
    """The dotted names of the modules that a file imports anywhere in it, inside functions too."""
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


def imported_packages(module: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(module)}


def printed_lines(module: Path) -> Iterator[int]:
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield node.lineno


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    return time.perf_counter() - start


def test_the_rooms_have_modules_to_check():
    assert {path.parts[0] for path in MODULES} == {"experimentator", "graph", "ops"}


def test_graph_and_ops_are_never_top_level_modules():
    assert not [name for name in sys.modules if name.partition(".")[0] in {"graph", "ops"}]


def test_each_file_is_imported_under_one_name():
    files = [Path(getattr(module, "__file__", None) or ROOT).resolve() for module in list(sys.modules.values())]
    ours = [file for file in files if file.is_relative_to(ROOT) and file.relative_to(ROOT) in MODULES]

    assert sorted(ours) == sorted(set(ours))


def test_the_links_lead_to_the_rooms():
    assert Path(experimentator.graph.__file__).resolve().parent == ROOT / "graph"
    assert Path(experimentator.ops.__file__).resolve().parent == ROOT / "ops"


def test_the_installed_version_is_the_version_of_the_source():
    try:
        installed = importlib.metadata.version("experimentator-dl")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed: this is a bare checkout")

    assert installed == experimentator.__version__ == __version__


def test_importing_the_library_loads_no_framework():
    code = f"import sys, experimentator; print(*sorted({FRAMEWORKS} & set(sys.modules)))"

    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)

    assert loaded.stdout.split() == []


def test_a_graph_that_is_listed_in_order_runs_without_networkx():
    """To load it takes as long as all else that a small training loads."""
    code = (
        "import sys; from experimentator.graph import Graph, chunk_processor\n"
        'double = chunk_processor(inputs=["x"], outputs=["y"])(lambda x: 2 * x)\n'
        "print(Graph([double], provided={'x'}).select('y').run({'x': 3}), 'networkx' in sys.modules)"
    )

    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)

    assert told.stdout == "{'y': 6} False\n"


def test_importing_the_library_is_quick():
    def median_cost() -> float:
        pairs = [seconds("import experimentator") - seconds("pass") for _ in range(5)]
        return statistics.median(pairs)

    # A busy machine only ever adds time, so the smallest median is the nearest to the truth.
    assert any(median_cost() <= IMPORT_BUDGET for _ in range(4))


@every_module
def test_a_module_holds_one_idea(module):
    assert len((ROOT / module).read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


@every_module
def test_only_the_command_line_prints(module):
    assert module.name == "cli.py" or module.parent.name == "commands" or list(printed_lines(module)) == []


@every_module
def test_nothing_is_read_by_a_loader_that_can_run_code(module):
    assert str(module) in SENDS_TO_ITS_OWN or not imported_packages(module) & UNSAFE_LOADERS


@every_module
def test_nothing_listens_on_a_socket(module):
    assert not imported_packages(module) & {"http", "socket", "socketserver", "wsgiref", "xmlrpc"}


@every_module
def test_a_framework_is_imported_in_its_own_room(module):
    allowed = {"keras"} if module.parts[0] == "ops" else set()
    if "backends" in module.parts:
        allowed = {"keras", module.relative_to("experimentator/backends").parts[0].removesuffix(".py")}

    assert imported_packages(module) & FRAMEWORKS <= allowed


@every_module
def test_only_the_diagram_imports_graphviz(module):
    assert module.name == "diagram.py" or not imported_packages(module) & {"graphviz", "pydot", "pygraphviz"}


@pytest.mark.parametrize("module", [path for path in MODULES if path.parts[0] == "graph"], ids=str)
def test_the_graph_needs_networkx_and_nothing_else(module):
    standard = sys.stdlib_module_names | {"annotationlib"}  # from Python 3.14 on
    assert imported_packages(module) <= standard | {"networkx", "experimentator"}


@pytest.mark.parametrize("module", [path for path in MODULES if path.parts[0] == "ops"], ids=str)
def test_the_shelf_imports_nothing_of_ours_but_the_graph(module):
    rooms = {".".join(name.split(".")[:2]) for name in imports(module) if name.startswith("experimentator")}

    assert rooms <= {"experimentator.graph", "experimentator.ops"}


def modules_named_in(text: str) -> set[str]:
    return {name.rpartition("/")[2] for name in re.findall(r"`([a-z_/]*[a-z_])`", text)}


def test_the_architecture_names_each_module_and_none_that_is_gone():
    rooms = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## Rooms")[2].partition("## How")[0]
    first_column = "\n".join(re.findall(r"^\| (.+?) \|", rooms, flags=re.MULTILINE))
    elsewhere = {
        "ops",
        "callbacks",
        "trackers",
        "tensorflow",
        "jax",
        "torch",
    }  # listed in docs/parts.md, or of one framework
    modules = {path.stem for path in MODULES if not elsewhere & set(path.parts) and not path.stem.startswith("__")}

    assert modules - modules_named_in(rooms) == {"version"}
    assert modules_named_in(first_column) - modules == set()
