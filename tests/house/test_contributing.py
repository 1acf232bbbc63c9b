"""The checklists of CONTRIBUTING.md, each followed with a toy on a copy of the tree.

A toy's new files lie in `toys/`; its edits of files that are there already are below. The files that it
touches must be those of the checklist, and the toy must run.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastsemi.run.folder import RunFolder

HOUSE = Path(__file__).parent
ROOT = HOUSE.parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
KINDS = ("engine", "source", "kernel", "threshold_rule", "stage")
PRESET = """
output: {output}
precision: fp32
stages: [toy, finetune, semi]
data: {{root: {root}, labels: {{per_class: 4}}, image_size: 16, eval_crop: 1.0}}
loader: {{threads: 1, timeout_s: 60}}
model:
  name: vit_tiny_patch16_224
  args: {{patch_size: 4, embed_dim: 32, depth: 2, num_heads: 2}}
toy: {{length: 4 steps, warmup: 1 steps, batch: 12}}
finetune: {{length: 4 steps, warmup: 1 steps, batch: 12}}
semi: {{length: 4 steps, warmup: 1 steps, batch: 6, momentum: 0.9, threshold_rule: toy}}
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def follow(kind: str, root: Path, edits) -> None:
    """Do what the checklist says, for a thing called toy."""
    shutil.copytree(HOUSE / "toys" / kind, root, dirs_exist_ok=True)
    contract = root / "tests/loaders/conftest.py"
    if kind == "engine":
        edits.add_entry(root / "loaders/engines/settings.py", "EngineName", '"toy"')
        edits.add_entry(root / "loaders/engines/choose.py", "_ENGINES", '"toy": ToyEngine')
        edits.add_import(
            root / "loaders/engines/choose.py", "from fastsemi.loaders.engines.toy import ToyEngine"
        )
        edits.add_entry(contract, "ENGINES", '"toy"')
    elif kind == "source":
        edits.add_entry(root / "loaders/sources/open.py", "_ARCHIVES", '".toy": ToySource')
        edits.add_import(
            root / "loaders/sources/open.py", "from fastsemi.loaders.sources.toy import ToySource"
        )
        edits.add_entry(contract, "SOURCES", '"toy"')
        edits.add_to_function(
            contract,
            "pack",
            'if kind == "toy":\n'
            "    import zipfile\n"
            '    with zipfile.ZipFile(out / "a.toy", "w") as archive:\n'
            "        for i in range(len(folder)):\n"
            '            archive.writestr("/".join(folder.name(i).split("/")[-2:]), folder.read_one(i))\n'
            '    return open_images(out, "a.toy")',
        )
    elif kind == "kernel":
        dispatch, rows = root / "kernels/dispatch.py", root / "benchmarks/ops/kernels.py"
        edits.add_import(dispatch, "from fastsemi.kernels.reference import toy as reference_toy")
        edits.add_to_class(dispatch, "Kernels", "energy = staticmethod(reference_toy.energy)")
        edits.add_to_class(dispatch, "TritonKernels", "energy = staticmethod(triton_toy.energy)")
        edits.add_to_function(
            dispatch,
            "_triton_kernels",
            "from fastsemi.kernels import toy as triton_toy",
            before=ast.ImportFrom,
        )
        edits.add_to_function(
            rows,
            "row_cases",
            'energies = [Case(f"energy {n}", partial(k.energy, logits), args.batch, timer, read) '
            "for n, k in kinds.items()]\n"
            "return energies",
            before=ast.Return,
        )
        resources = root / "benchmarks/ops/kernel_resources.py"
        edits.add_import(resources, "from fastsemi.kernels.toy import energy_kernel")
        constants = '{"STRIDE": 1000, "C": 1000, "BLOCK": 1024}'
        types = '{"logits": "half", "out": "fp32"}'
        edits.add_entry(resources, "CASES", f'Case("energy", energy_kernel, {constants}, 2, {types}, 0)')
    elif kind == "threshold_rule":
        thresholds = root / "fastsemi/stages/thresholds"
        edits.add_entry(thresholds / "settings.py", "RuleName", '"toy"')
        edits.add_import(thresholds / "rules.py", "from fastsemi.stages.thresholds.toy import Toy")
        edits.add_case(thresholds / "rules.py", "create_rule", '"toy"', "Toy()")
    elif kind == "stage":
        run = root / "fastsemi/run"
        edits.add_entry(root / "fastsemi/stages/names.py", "StageName", '"toy"', after="pretrain")
        edits.add_to_class(run / "config.py", "Config", "toy: ToyConfig = field(default_factory=ToyConfig)")
        edits.add_import(run / "config.py", "from fastsemi.stages.toy_config import ToyConfig")
        edits.add_entry(run / "order.py", "STAGE_CLASSES", '"toy": Toy')
        edits.add_import(run / "order.py", "from fastsemi.stages.toy import Toy")


def contents(root: Path) -> dict[str, bytes]:
    """All Python files below a folder, and what is in them."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.py") if p.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory, copy_tree):
    """A copy of the tree with all toys in it, and the files that each of them touched."""
    spec = importlib.util.spec_from_file_location("house_edits", HOUSE / "edits.py")
    edits = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(edits)
    root, touched = copy_tree(tmp_path_factory.mktemp("toys") / "copy"), {}
    for kind in KINDS:
        before = contents(root)
        follow(kind, root, edits)
        touched[kind] = {name for name, text in contents(root).items() if before.get(name) != text}
    return root, touched


@pytest.fixture(scope="module")
def run(built, tmp_path_factory):
    """The function `run(*words)`: Python in the copy, and what it printed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(built[0]),
        "FASTSEMI_CACHE": str(tmp_path_factory.mktemp("cache")),
        "OMP_NUM_THREADS": "1",
    }

    def run(*words, **variables):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=built[0],
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=550,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_the_checklist_names_the_files_that_are_touched(kind, built):
    title = f"### A{'n' if kind == 'engine' else ''} {kind.replace('_', ' ')}\n"
    section = GUIDE.partition(title)[2].partition("\n#")[0]
    listed = {name.replace("NAME", "toy") for name in re.findall(r"^- \[ \] `([^`]+)`:", section, re.M)}
    assert listed == built[1][kind]


def test_the_copy_keeps_to_the_floors(built, floors):
    known = {(each.file, each.module) for each in floors.upward(floors.ROOT)}
    assert not [each for each in floors.upward(built[0]) if (each.file, each.module) not in known]


# One process, since each would import PyTorch again.
TRIED = """
import sys
import pytest
import fastsemi.loaders.engines as rooms
from fastsemi.commands import cli
print(rooms.__file__)
tests, chosen, preset = sys.argv[1].split(), *sys.argv[2:]
code = pytest.main(["-v", "-p", "no:cacheprovider", *tests, "-k", chosen])
sys.exit(code or cli.main(["train", "--config", preset]))
"""


@pytest.fixture(scope="module")
def tried(run, shapes, tmp_path_factory):
    """What was printed by the tests of toys, and then by a run with the toys; the run's folder."""
    folder = tmp_path_factory.mktemp("tried")
    preset = folder / "toy.yaml"
    preset.write_text(PRESET.format(output=folder / "run", root=shapes))
    tests, chosen = "tests/loaders/test_engines.py", "toy-folder or native-toy or test_toy"
    if importlib.util.find_spec("triton"):
        tests += " tests/kernels/test_toy.py"
    return run("-c", TRIED, tests, chosen, str(preset), TRITON_INTERPRET="1"), RunFolder(folder / "run")


def test_the_copy_is_what_runs(tried, built):
    assert tried[0].startswith(str(built[0]))


def test_the_toy_engine_and_the_toy_source_hold_the_contract(tried):
    for chosen in ("toy-folder", "native-toy"):
        assert re.search(rf"\[{chosen}\] PASSED", tried[0])
    assert not re.search("FAILED|ERROR|SKIPPED", tried[0])


def test_the_toy_kernel_is_chosen_measured_and_agrees_with_its_specification(run, tried, tmp_path):
    pytest.importorskip("triton")
    assert re.search(r"test_toy.py::\S+ PASSED", tried[0])
    rows = tmp_path / "rows.json"
    code = (
        "from benchmarks.ops.kernel_resources import CASES, compile_case\n"
        "from benchmarks.ops.kernels import main\n"
        "main()\n"
        "print(CASES[0].name, compile_case(0, 80)['spill_bytes'])"
    )
    small = ("--batch", "4", "--size", "32", "--classes", "10", "--rounds", "5")
    said = run("-c", code, *small, "--json", str(rows), TRITON_INTERPRET="0")
    assert "energy torch" in rows.read_text()
    assert said.splitlines()[-1] == "energy 0"


def test_the_toy_rule_and_the_toy_stage_train(tried):
    stages = json.loads(tried[1].summary.read_text())["stages"]
    assert list(stages) == ["toy", "finetune", "semi"]
    assert stages["toy"]["steps"] == 4 and "top1" in stages["toy"] and "teacher_top1" in stages["semi"]
