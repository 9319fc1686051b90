"""``minicaffe gpu_check``: whole on the stand-in, and with faults planted into it, each of which must be found and
named.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import venv
from pathlib import Path

import cuda_host
import numpy as np
import pytest

from minicaffe.testing.gpu import checks, kernels, parts, report, requirements, runner, sanitizer, warm
from minicaffe.testing.gpu.checks import FAILED, PASSED, SKIPPED, Check, Options
from minicaffe.testing.kernel_cases import Output, Sizes, cases
from minicaffe.testing.kernel_cases.case import POISON
from minicaffe.testing.kernel_cases.random import philox

ROOT = Path(__file__).parent.parent
ENTRY = ROOT / "tools" / "gpu_check.py"
STAND_IN = """
import strict_cuda, strict_cupy

def install():
    strict_cuda.install()
    own = strict_cupy.RawModule.__init__

    def init(self, *, code, **options):
        for right, wrong in FAULTS:
            code = code.replace(right, wrong)
        own(self, code=code, **options)

    strict_cupy.RawModule.__init__ = init
"""
needs_compiler = pytest.mark.skipif(not cuda_host.have_compiler(), reason="g++ is not installed")


@pytest.fixture
def gpu_check(tmp_path, monkeypatch):
    """Runs the command on a stand-in, by default the strict one; returns its output and what it left as JSON.

    ``module`` is the text of another stand-in.
    """

    def run(*flags, module="", status=0, entry=ENTRY, env=None):
        (tmp_path / "planted.py").write_text(textwrap.dedent(module))
        python_path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, str(entry), "--json", str(tmp_path / "out.json")]
        command += ["--stand_in", "planted" if module else "strict_cuda", *flags]
        done = subprocess.run(
            command,
            env=env or {**os.environ, "PYTHONPATH": python_path},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout, json.loads((tmp_path / "out.json").read_text())["parts"]

    return run


def states(part):
    """The names of a part's checks by what became of them."""
    return {row["check"]: row["state"] for row in part["rows"]}


def problem(part, name):
    """What is wrong with a check."""
    return next(row["problem"] for row in part["rows"] if row["check"] == name)


@needs_compiler
def test_whole_on_the_stand_in(gpu_check):
    text, found = gpu_check("--every", "60", "--minutes", "5")
    lines = text.splitlines()
    assert len(lines) <= report.LONGEST and lines[-2].startswith("passed: ")
    assert list(found) == [part.name for part in parts.PARTS]
    for name, part in found.items():
        assert any(line.startswith(f"{name} ") for line in lines)
        assert part["rows"] and not part["problem"] and not part["unfinished"] and part["processes"] == 1
        assert FAILED not in states(part).values()
    assert {"copy", "SGEMM FP32", "the GPU is there"} <= states(found["device"]).keys()
    assert set(states(found["sanitizer"]).values()) == {SKIPPED}
    assert any("compute-sanitizer is not on the PATH" in line or "no device code" in line for line in lines)
    step = found["speed"]["rows"][0]
    assert step["check"] == "siamese_mnist_b64/step/minicaffe" and step["figures"]["ms"] > 0


@needs_compiler
def test_the_slowest_kernels_and_the_memory_of_a_net(gpu_check):
    text, found = gpu_check(
        "--only", "speed", "--match", "lenet*minicaffe,lenet*/kernels,lenet*cuDNN,convolution/small/*Grad"
    )
    figures = {row["check"]: row["figures"] for row in found["speed"]["rows"]}
    slowest = figures["lenet_b64/kernels"]["slowest"]
    assert len(slowest) == 16 and [k["ms"] for k in slowest] == sorted((k["ms"] for k in slowest), reverse=True)
    assert any(k["kernel"].startswith("gemm") and k["TFLOP/s"] > 0 and k["GB/s"] > 0 for k in slowest)
    assert figures["lenet_b64/kernels"]["launches"] > 30 and "MB" in figures["lenet_b64/memory/minicaffe"]
    assert "lenet_b64/step" in text and "milliseconds" in text and "minicaffe cuDNN" in text
    for name in ("convolution/small/DataGrad", "convolution/small/WeightGrad"):
        assert {"im2col ms", "implicit TF32 ms", "implicit fp16 ms", "cuDNN TF32 ms"} <= figures[name].keys()
        assert f"{name}: im2col " in text and figures[name]["taken"] == "im2col"


@needs_compiler
def test_wrong_kernels_crashes_and_hangs_are_named_and_the_rest_runs(gpu_check):
    faults = [
        ("+ bias[plane % channels]", "- bias[plane % channels]"),
        ("const int n = i / inner;", "const int n = i / inner; if (inner == 49) *(volatile int*)0 = 0;"),
        ("FOR_EACH_REDUCED(i, length) sum += (double)a[i] * b[i];", "for (volatile int k = 1; k && length == 33;) {}"),
    ]
    chosen = ["bias_add 2x3x49*", "bias_grad 2x3x49*", "dot 33*", "softmax 5x10*", "gemm *"]
    text, found = gpu_check(
        "--only", "device,kernels", "--match", ",".join([*chosen, "copy"]), "--patience", "3",
        module=f"FAULTS = {faults}\n{STAND_IN}", status=1,
    )  # fmt: skip
    part, became = found["kernels"], states(found["kernels"])
    wrong = problem(part, "bias_add 2x3x49, 3 float32")
    assert wrong.startswith(
        "argument 0, shape (2, 3, 49), float32: 294 of 294 elements differ, first at [0, 0, 0]: found "
    )
    assert "crashed: SIGSEGV" in problem(part, "bias_grad 2x3x49, 3 float64")
    for name in ("dot 33, 33 float32", "dot 33, 33 float64"):
        assert problem(part, name).startswith("it did not end within 3 s")
    assert {became[name] for name in became if name.startswith(("gemm", "softmax"))} == {PASSED}
    assert sum(name.startswith("gemm") for name in became) == 60
    assert part["processes"] == 1 + sum(
        "process crashed" in row["problem"] or "not end" in row["problem"] for row in part["rows"]
    )
    assert states(found["device"]) == {"copy": PASSED}
    lines = text.splitlines()
    assert any("bias_add 2x3x49, 3 float32: argument 0" in line for line in lines) and "FAILED: " in lines[-2]


@needs_compiler
def test_what_is_written_or_read_outside_an_array_is_found(gpu_check):
    faults = [
        ("FOR_EACH(i, count) dx[i] = scale", "FOR_EACH(i, count + 1) dx[i] = scale"),
        ("m[i] = mean_after", "if (i + 1 == count) w[count] += T(0.125); m[i] = mean_after"),
        ("FOR_EACH_REDUCED(i, length) sum += (double)a[i]", "FOR_EACH_REDUCED(i, length + 1) sum += (double)a[i]"),
        ("T largest = x[start];", "T largest = x[start]; if (inner == 35) largest += 0 * x[-1];"),
    ]
    chosen = ["euclidean_loss_grad 5x700 *", "adam_update 33 *", "dot 33*", "softmax 2x4x35*", "softmax 5x10x1*"]
    _, found = gpu_check(
        "--only", "kernels", "--match", ",".join(chosen), module=f"FAULTS = {faults}\n{STAND_IN}", status=1
    )
    part = found["kernels"]
    for dtype, size in (("float32", 4), ("float64", 8)):
        wrote = f"a kernel wrote behind an array of shape (5, 700), {dtype}: {size} bytes"
        assert problem(part, f"euclidean_loss_grad 5x700 {dtype}") == wrote
        assert f"wrote behind an array of shape (33,), {dtype}" in problem(part, f"adam_update 33 {dtype}")
        assert "1 of 1 elements differ" in problem(part, f"dot 33, 33 {dtype}")
        assert "reads outside an array" in problem(part, f"softmax 2x4x35, 2x4x35 {dtype}")
        assert states(part)[f"softmax 5x10x1, 5x10x1 {dtype}"] == PASSED


@needs_compiler
def test_another_process_goes_on_where_a_device_is_lost(gpu_check):
    module = """
    import strict_cuda, strict_cupy

    def install():
        strict_cuda.install()
        cuda, own = strict_cuda.sys.modules["cupy"].cuda, strict_cupy._launch

        def launch(kernel, *args):
            if kernel.name.startswith("bias_add"):
                cuda.Event = broken
                broken()
            own(kernel, *args)

        def broken():
            raise strict_cuda.CudaRuntimeError("cudaErrorIllegalAddress")

        strict_cupy._launch = launch
    """
    _, found = gpu_check("--only", "kernels", "--match", "bias_add 2x3x49*,bias_grad 2x3x49*", module=module, status=1)
    part = found["kernels"]
    assert part["processes"] == 3
    for dtype in ("float32", "float64"):
        assert "cudaErrorIllegalAddress" in problem(part, f"bias_add 2x3x49, 3 {dtype}")
        assert states(part)[f"bias_grad 2x3x49, 3 {dtype}"] == PASSED


@needs_compiler
def test_without_nvmath_products_go_through_cupy(gpu_check):
    module = """
    import strict_cuda

    def install():
        strict_cuda.install()
        for name in ("nvmath", "nvmath.bindings", "nvmath.bindings.cublas"):
            strict_cuda.sys.modules[name] = None
    """
    text, found = gpu_check(
        "--only", "device,kernels", "--match", "gemm *,convolve* 3x4x7x7 *,*cuBLAS*,SGEMM*", module=module
    )
    assert states(found["device"]) == dict.fromkeys(["cuBLAS by nvmath-python", "SGEMM FP32", "SGEMM TF32"], SKIPPED)
    assert set(states(found["kernels"]).values()) == {PASSED} and len(found["kernels"]["rows"]) > 32
    assert "nvmath-python is not installed" in text


def test_without_a_gpu_it_says_so_and_stops(gpu_check):
    module = """
    import strict_cuda

    def install():
        strict_cuda.install()
        strict_cuda.sys.modules["cupy"]._devices = 0
    """
    text, found = gpu_check(module=module, status=1)
    assert list(found) == ["device"] and found["device"]["processes"] == 1 and len(found["device"]["rows"]) == 2
    assert states(found["device"])["versions"] == PASSED
    assert "this machine has none that CUDA can see" in problem(found["device"], "the GPU is there")
    assert "there is no GPU to run it on" in text


def test_a_part_that_does_not_start_is_named(gpu_check):
    text, found = gpu_check(
        "--only", "kernels", module="def install():\n    raise OSError('libcudart.so is missing')\n", status=1
    )
    assert "libcudart.so is missing" in found["kernels"]["problem"] and not found["kernels"]["rows"]
    assert "libcudart.so is missing" in text


@needs_compiler
def test_it_stops_when_its_time_is_over(gpu_check):
    text, found = gpu_check("--only", "kernels,layers", "--minutes", "0.2")
    assert found["kernels"]["unfinished"] == "its time was over" and FAILED not in states(found["kernels"]).values()
    assert "not finished" in text.splitlines()[-2]


# --- what is missing


@pytest.fixture
def bare(tmp_path):
    """A copy of the checkout in an empty folder, and an environment with the fewest packages on the path."""
    folder, site = tmp_path / "copy", tmp_path / "site"
    for name in ("minicaffe", "kernels", "proto", "models", "tools", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    site.mkdir()
    packages = ["numpy", "numba", "llvmlite", "h5py", "google", "PIL", "click", "threadpoolctl"]
    for package in [*packages, "pytest", "_pytest", "pluggy", "iniconfig", "packaging"]:
        spec = importlib.util.find_spec(package)
        for place in spec.submodule_search_locations or [spec.origin]:
            for path in (
                Path(place),
                Path(place).with_name(f"{Path(place).name}.libs"),
                Path(place).with_name("pillow.libs"),
            ):
                link = site / path.name
                if path.exists() and not link.exists():
                    link.symlink_to(path)
    venv.create(tmp_path / "venv", symlinks=True)  # of its own, with nothing in it
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(site)}
    env |= {name: os.environ[name] for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME") if name in os.environ}

    def run(*flags, without=()):
        for package in without:
            (site / package).unlink()
        command = [
            tmp_path / "venv" / "bin" / "python",
            folder / "tools" / "gpu_check.py",
            "--json",
            tmp_path / "out.json",
            *flags,
        ]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)

    return run


def test_a_bare_checkout_says_all_that_it_lacks(bare):
    done = bare()
    assert done.returncode == 1 and not done.stderr
    for package in (
        "cupy-cuda12x or cupy-cuda13x (needed)",
        "nvmath-python (wanted)",
        "lmdb",
        "torch",
        "rich",
        "pooch",
    ):
        assert package in done.stdout
    assert "no GPU can be checked: install CuPy" in done.stdout
    done = bare(without=("numba", "click"))
    assert done.returncode == 1
    for package in ("numba (needed)", "click (needed)", "cupy-cuda12x or cupy-cuda13x (needed)"):
        assert package in done.stderr


@needs_compiler
def test_a_bare_checkout_runs_all_parts(bare):
    chosen = [
        "bias_add 2x3x49*",
        "Caffe's ReLU*",
        "gradient of Data*",
        "copy",
        "*/forward/minicaffe",
        "memcheck",
        "two runs*",
    ]
    done = bare(
        "--stand_in", "strict_cuda", "--match", ",".join(chosen), "--only", "device,kernels,layers,speed,sanitizer"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lmdb (optional)" in done.stdout and "passed: " in done.stdout
    for name in ("device", "kernels", "layers", "speed"):
        assert any(line.startswith(name) and " 0 passed" not in line for line in done.stdout.splitlines())


def test_a_wheel_runs_what_it_has(monkeypatch, tmp_path, capsys):
    from minicaffe.tools import cli

    ran = []
    monkeypatch.setattr(checks, "checkout", lambda: None)
    monkeypatch.setattr(runner, "run", lambda part, *_: ran.append(part.name) or runner.Result(part))
    status = cli.main(["gpu_check", "--stand_in", "x", "--every", "2", "--json", str(tmp_path / "out.json")])
    text = capsys.readouterr().out
    assert status == 0
    assert [name for name in ran if name != "warm-up"] == [part.name for part in parts.PARTS if part.packaged]
    for name in ("layers", "speed"):
        assert f"{name}: needs a checkout" in text


def test_a_part_that_is_not_there(capsys):
    from minicaffe.tools import cli

    assert cli.main(["gpu_check", "--only", "kernel"]) == 2
    assert "no part 'kernel'; known: device, kernels" in capsys.readouterr().err


def test_an_old_python_is_named(monkeypatch):
    monkeypatch.setattr(requirements, "PYTHON", (99, 1))
    lines, possible = requirements.lacking()
    assert lines[0].startswith("Python 99.1 or newer; this is ") and not possible


# --- the pieces


def test_a_sanitizer_is_believed_when_it_ran_and_found_nothing():
    rows = [{"check": "a", "state": PASSED, "problem": ""}, {"complete": True}]
    assert sanitizer.judge("========= ERROR SUMMARY: 0 errors\n", rows) == {"checks": 1, "complete": True}
    assert (
        sanitizer.judge("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", rows)["checks"]
        == 1
    )
    output = "========= Invalid __global__ write of size 4 bytes\n=========     at bias_add\n========= ERROR SUMMARY: 3 errors\n"
    with pytest.raises(AssertionError, match="3 errors: 1 x Invalid __global__ write"):
        sanitizer.judge(output, rows)
    with pytest.raises(AssertionError, match="no summary; 1 checks ran: Target application returned an error"):
        sanitizer.judge("========= Target application returned an error\n", rows)
    with pytest.raises(AssertionError, match="a: wrong"):
        sanitizer.judge("========= ERROR SUMMARY: 0 errors\n", [{"check": "a", "state": FAILED, "problem": "wrong"}])
    with pytest.raises(AssertionError, match="no check ran"):
        sanitizer.judge("========= ERROR SUMMARY: 0 errors\n", [])


@needs_compiler
def test_a_sanitizer_runs_one_case_of_every_primitive(tmp_path):
    program = tmp_path / "compute-sanitizer"
    program.write_text(f"""#!/bin/sh
        tool=$2
        while test "$1" != {sys.executable}; do shift; done
        "$@" && echo "========= ERROR SUMMARY: $(test $tool = initcheck && echo 2 || echo 0) errors"
    """)
    program.chmod(0o755)
    options = Options(str(ENTRY), stand_in="strict_cuda")
    ran = sanitizer.run_under(str(program), "memcheck", options)
    kinds = {(case.op, bool(case.narrow)) for case in cases(Sizes((1,)))}  # those of 16 bits run in float32 only
    assert ran == {"checks": len(kinds) + sum(not narrow for _, narrow in kinds), "complete": True}
    with pytest.raises(AssertionError, match="2 errors"):
        sanitizer.run_under(str(program), "initcheck", options)


def test_a_process_is_told_of_any_number_of_checks_that_are_done(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    options, done = Options(str(ENTRY), stand_in="strict_cuda", match="versions"), ["x" * 100] * 5000
    process = runner._Process(parts.named("device"), options, tmp_path / "1", done, 60)
    assert process.watch(time.monotonic() + 60, 60, threading.Event()) == ""
    assert process.complete and [row["check"] for row in process.rows] == ["versions"]


def test_a_kernel_that_is_never_launched_is_named():
    result = runner.Result(parts.named("kernels"))
    result.rows.append({"check": "a", "state": PASSED, "problem": "", "figures": {"kernels": ["linear.bias_add"]}})
    kernels.account(result)
    assert not result.right and "softmax.softmax_grad" in result.rows[-1]["problem"]
    assert "linear.bias_add" not in result.rows[-1]["problem"]


def test_the_table_stays_short():
    result = runner.Result(parts.named("kernels"))
    for number in range(500):
        result.add(f"check {number}", "x" * 1000)
        result.rows.append({"check": str(number), "state": SKIPPED, "problem": f"reason {number}", "figures": {}})
    lines = report.table([result] * 6, ["more"] * 200)
    assert len(lines) <= report.LONGEST and max(map(len, lines)) <= 400
    assert lines[-1] == "FAILED: 3000 of 6000 checks"


def test_names_of_cases_are_unique():
    names = [case.name for case in cases(Sizes((1, 2, 33), 1000))]
    assert len(set(names)) == len(names)


def test_outputs_hold_nothing_before_the_call():
    for case in cases(Sizes((1, 33))):
        for dtype in ("float32", "float64"):
            for arg in case.draw(dtype):
                if isinstance(arg, Output):
                    assert np.isnan(arg).all() if arg.dtype.kind == "f" else (arg == POISON).all(), case.name


def test_each_nth_check_and_those_that_match():
    many = [Check(f"check {i}", lambda: None) for i in range(10)]
    taken = [i for i, check in enumerate(many) if Options("", every=4).takes(i, check)]
    assert taken == [0, 4, 8]
    assert [i for i, check in enumerate(many) if Options("", match="*3, check 5").takes(i, check)] == [3, 5]
    assert Options("", every=4).takes(1, Check("versions", lambda: None, always=True))


def test_known_answers_of_philox_in_numpy():
    # Random123's kat_vectors: philox4x32 with 10 rounds, key and counter 0
    assert philox(0, 0, 1).tolist() == [[0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]]
    np.testing.assert_array_equal(philox(5, 7, 3)[1:], philox(5, 8, 2))


def test_the_warm_up_runs_what_it_names(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    chosen = [check for check in warm.checks(Options("", stand_in="x")) if check.name in ("SGD", "ReLU", "Data")]
    assert [check.name for check in chosen][0] == "SGD" and len(chosen) >= 2
    for check in chosen:
        check.run()


def test_ratios_are_those_of_medians():
    result = runner.Result(parts.named("speed"))
    for who, ms in (("minicaffe", 2.0), ("torch", 3.0), ("torch TF32", 1.0)):
        result.rows.append({"check": f"net/step/{who}", "state": PASSED, "problem": "", "figures": {"ms": ms}})
    text = "\n".join(report.table([result], []))
    assert "3 (1.50)" in text and "1 (0.50)" in text


def test_the_readme_says_on_which_gpus_it_has_run():
    """All whose results are there; what has not run on one since is said in words."""
    cards = [file.stem.removeprefix("gpu-") for file in (ROOT / "benchmarks" / "results").glob("gpu-*.json")]
    for name in ("README.md", "docs/gpu.md"):
        text = (ROOT / name).read_text()
        assert cards or "ot yet run on a GPU" in text
        assert [card for card in cards if card not in text.lower().replace(" ", "-")] == []
