"""The ranks of modules: each imports only from lower ranks, or its own package's lower modules, and there is no cycle."""

from __future__ import annotations

import ast
import configparser
from graphlib import TopologicalSorter
from pathlib import Path

import minicaffe

ROOT = Path(__file__).parent.parent
HOMES = {
    "minicaffe": "minicaffe",
    "kernels": "minicaffe.kernels",
    "proto": "minicaffe.proto",
    "models": "minicaffe.models",
    "tools": "minicaffe.tools",
}
RANKS = [
    (
        "minicaffe.errors",
        "minicaffe.arguments",
        "minicaffe.c_math",
        "minicaffe.memory",
        "minicaffe.limits",
        "minicaffe.named",
        "minicaffe.as_caffe",
        "minicaffe.models",
        "minicaffe.compat",
        "minicaffe.proto",
        "minicaffe.net_spec",
        "minicaffe.coord_map",
        "minicaffe.glog",
    ),
    ("minicaffe.kernels.window", "minicaffe.kernels.convolution", "minicaffe.kernels.fast_paths"),
    ("minicaffe.kernels.reference",),
    ("minicaffe.kernels.cpu.runtime",),
    ("minicaffe.kernels.cpu.simd",),
    ("minicaffe.kernels.cpu.matmul",),
    ("minicaffe.kernels.cpu.conv",),
    ("minicaffe.kernels.cpu", "minicaffe.kernels.cuda", "minicaffe.kernels"),
    ("minicaffe.backend",),
    ("minicaffe.boxes",),
    ("minicaffe.storage",),
    ("minicaffe.blob", "minicaffe.fillers", "minicaffe.data"),
    ("minicaffe.layers",),
    (
        "minicaffe.alignment",
        "minicaffe.graph",
        "minicaffe.engine",
        "minicaffe.weight_files",
        "minicaffe.folding",
        "minicaffe.matching",
        "minicaffe.weights",
        "minicaffe.raw_views",
        "minicaffe.named_passes",
        "minicaffe.batches",
        "minicaffe.forward_only",
        "minicaffe.net",
    ),
    ("minicaffe.parallel",),
    ("minicaffe.solvers",),
    (
        "minicaffe.layer_label",
        "minicaffe.compact_graph",
        "minicaffe.draw",
        "minicaffe.plot",
        "minicaffe.pycaffe",
        "minicaffe.embedding",
        "minicaffe.comparison",
        "minicaffe.features",
        "minicaffe.inspection",
        "minicaffe.onnx",
        "minicaffe.pytorch",
        "minicaffe.statistics",
        "minicaffe.training_log",
        "minicaffe.zoo",
        "minicaffe.verification",
        "minicaffe.summary",
        "minicaffe.skimage_resize",
        "minicaffe.io",
        "minicaffe.classifier",
        "minicaffe.detector",
        "minicaffe.box_detector",
        "minicaffe.box_drawing",
        "minicaffe.segmenter",
        "minicaffe.mask_drawing",
        "minicaffe.tensorboard",
        "minicaffe.testing",
        "minicaffe",
    ),
    ("minicaffe.tools", "minicaffe.__main__"),
]


def modules() -> dict[str, Path]:
    """Every module of the package by its import name."""
    found = {}
    for folder, package in HOMES.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join([package, *(part for part in parts if part != "__init__")])
            found[name] = path
    return found


def rank(name: str) -> int:
    best = max(
        (
            (len(prefix), i)
            for i, row in enumerate(RANKS)
            for prefix in row
            if name == prefix or name.startswith(prefix + ".") and prefix != "minicaffe"
        ),
        default=None,
    )
    assert best is not None, f"{name} has no rank: add it to RANKS"
    return best[1]


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the package that a file imports at run time, inside functions too."""
    found = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in known else node.module)
    return {name for name in found if name in known}


def test_the_ranks_name_only_what_exists():
    known = modules()
    assert [name for row in RANKS for name in row if name not in known] == []


def test_every_module_imports_only_from_its_rank_or_below():
    known = modules()
    upward = [
        f"{name} imports {target}"
        for name, path in known.items()
        if name not in ("minicaffe", "minicaffe.proto.compile")
        for target in imports(path, known)
        if rank(target) > rank(name)
    ]
    assert not upward


def test_there_is_no_import_cycle():
    known = modules()
    graph = {
        name: {t for t in imports(path, known) if t != name and not name.startswith(t + ".")}
        for name, path in known.items()
    }
    TopologicalSorter(graph).prepare()


def test_editors_are_told_what_the_package_loads_at_its_first_use():
    tree = ast.parse((ROOT / "minicaffe" / "__init__.py").read_text())
    told = {
        alias.asname or alias.name: (node.module, alias.name)
        for branch in tree.body
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {name: home.partition(":") for name, home in minicaffe._HOME.items()}
    loaded = {name: (module, attribute or name) for name, (module, _, attribute) in homes.items()}
    assert told == {**loaded, **{name: ("minicaffe", name) for name in minicaffe._SUBMODULES}}
    assert minicaffe.__all__ == ["TEST", "TRAIN", "__version__", *minicaffe._HOME]
    for name in told:
        assert getattr(minicaffe, name) is not None


def test_setup_cfg_lists_every_package():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    on_disk = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert listed == on_disk


def test_optional_packages_are_imported_in_compat_only():
    optional = {
        "cupy",
        "cupyx",
        "nvmath",
        "plyvel",
        "plyvel_next",
        "matplotlib",
        "pygraphviz",
        "tensorboardX",
        "scipy",
        "sklearn",
        "nbformat",
        "nbclient",
        "onnx",
        "onnxruntime",
        "torch",
    }
    offenders = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            offenders += [
                f"{name}: {n}" for n in names if n.partition(".")[0] in optional and name != "minicaffe.compat"
            ]
    assert not offenders
