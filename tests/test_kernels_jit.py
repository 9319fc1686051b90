"""How kernels are compiled: each once, kept on disk, calling each other by name."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import numpy as np
import pytest
from numba.core import caching, config

from minicaffe.kernels import cpu
from minicaffe.kernels.cpu.conv.tables import some_of
from minicaffe.kernels.cpu.runtime import compile as jit
from minicaffe.kernels.cpu.runtime.address import LINE, align, word, word_rows, words
from minicaffe.kernels.cpu.runtime.cache import CacheFile, complaint
from minicaffe.kernels.cpu.runtime.launch import share

PROGRAM = """
import gc
import numpy as np
from numba.core import event
from numba.core.runtime import rtsys
from minicaffe.kernels import cpu
compiled = event.RecordingListener()
event.register("numba:compile", compiled)
x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
y = np.empty((3, 3), np.float32)
cpu.gemm(x, x, y, transpose_b=True)
def double(x, a):
    return a * x
def square(x, a):
    return x * x + a
for formula in (double, square):
    cpu.elementwise(formula, (y,), (3.0,), y)
names = {e.data["dispatcher"].py_func.__qualname__ for _, e in compiled.buffer}
print(len(names), gc.isenabled(), rtsys._init, y.tobytes().hex())
"""


def in_child(code, *arguments, **environment):
    """The words that a fresh interpreter prints."""
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=os.environ | environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_a_second_process_compiles_nothing_and_gets_the_same(tmp_path):
    first, second = (in_child(PROGRAM, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    expected = (3 * (x @ x.T)) ** 2 + 3
    np.testing.assert_allclose(np.frombuffer(bytes.fromhex(second[3]), np.float32).reshape(3, 3), expected, rtol=1e-6)
    assert int(first[0]) > 0
    assert second == ["0", "True", "False", first[3]]  # nor what Numba compiles of its own runtime first


def test_a_kept_kernel_serves_a_formula_like_that_of_a_module_that_is_gone(tmp_path):
    code = (
        "import numpy as np; from minicaffe.kernels import cpu; from {} import triple\n"
        "x = np.ones((2, 3, 1)); y = np.zeros(3); cpu.elementwise(triple, (x,), (), x); cpu.channel_sum(triple, (x,), "
        "(), (), y); print(y[0])"
    )
    for module in ("first", "second"):
        source = tmp_path / f"{module}.py"
        source.write_text("def triple(x):\n    return x * 3.0\n")
        found = in_child(code.format(module), NUMBA_CACHE_DIR=str(tmp_path / "cache"), PYTHONPATH=str(tmp_path))
        assert found == ["18.0"]
        source.unlink()


LINKED = """
import numpy as np
from minicaffe.kernels.cpu.runtime.compile import called, kernel
@called
def put(target, number):
    target[0] = number
@kernel(internal=True)
def put_twice(target, number):
    put(target, 2 * number)
@kernel()
def first(target, number):
    put_twice(target, number)
@kernel()
def second(target, number):
    put_twice(target, number + 1)
"""


def test_what_was_made_with_a_kept_kernel_can_be_kept_itself(tmp_path):
    """The third process loads what the second made with what the first had kept, and what that calls by name."""
    (tmp_path / "linked.py").write_text(LINKED)
    code = "import numpy as np, linked; a = np.zeros(1, np.int64); linked.{}(a, 3); print(a[0])"
    folders = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
    assert [in_child(code.format(name), **folders) for name in ("first", "second", "second")] == [["6"], ["8"], ["8"]]


def test_one_part_runs_on_the_calling_thread_alone():
    """Numba's work queue ends the process when two threads enter a parallel loop at once."""
    code = """
import threading
import numpy as np
from minicaffe.kernels import cpu
def shift(x, a):
    return x + a
x = np.ones(4, np.float32)
cpu.elementwise(shift, (x,), (0.0,), x.copy())
def work():
    y = np.ones(4, np.float32)
    for _ in range(20000):
        cpu.elementwise(shift, (x,), (1.0,), y)
    assert (y == 2).all()
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("done")
"""
    assert in_child(code, NUMBA_THREADING_LAYER="workqueue", NUMBA_NUM_THREADS="2") == ["done"]


def test_a_called_kernel_is_compiled_once_whatever_integers_it_gets():
    @jit.called
    def put(target, count, pair):
        target[0] = count + pair[0] * pair[1]

    @jit.kernel()
    def put_all(a):
        put(a, np.int32(1), (np.uint8(2), 3))
        put(a[1:], 4, (a.size, np.uint64(5)))

    a = np.zeros(3, np.int64)
    put_all(a)
    seen = [kernel for name, kernel in jit._kernels.items() if name.endswith("<locals>.put")]
    assert a.tolist() == [7, 19, 0]
    assert [len(kernel.signatures) for kernel in seen] == [1]


@pytest.mark.parametrize("collected", [True, False])
def test_the_garbage_collector_is_left_as_it_was(collected):
    @jit.kernel()
    def twice(x):
        return x + x

    (gc.enable if collected else gc.disable)()
    try:
        assert twice(1.5) == 3.0
        assert gc.isenabled() == collected
    finally:
        gc.enable()


def test_kernels_of_one_name_are_told_apart_by_their_stamps():
    """Two formulas called alike, which Numba's cache would take for one."""
    formulas = []
    for a in (2.0, 3.0):
        scope = {}
        exec(f"def same(x):\n    return {a} * x\n", scope)
        formulas.append(scope["same"])
    x = np.array([1.0, 2.0])
    results = [np.empty(2), np.empty(2)]
    for formula, y in zip(formulas, results, strict=True):
        cpu.elementwise(formula, (x,), (), y)
    assert [y.tolist() for y in results] == [[2.0, 4.0], [3.0, 6.0]]


def test_kept_code_of_two_processes_that_save_at_once_is_not_mixed_up(tmp_path):
    index = tmp_path / "kernel.nbi"
    ours, theirs = (CacheFile(str(tmp_path), "kernel", 0) for _ in range(2))
    ours.save(("float32", "haswell"), "ours")
    our_index = index.read_bytes()
    index.unlink()  # they have not seen it yet
    theirs.save(("float64", "nehalem"), "theirs")
    index.write_bytes(our_index)
    assert ours.load(("float32", "haswell")) == "ours"
    assert ours.load(("float64", "nehalem")) is None


def test_what_others_compiled_is_read_where_it_cannot_be_written(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    CacheFile(str(theirs), "kernel", 0).save(("float32", "haswell"), "theirs")
    before = sorted(theirs.iterdir())
    cache = CacheFile(str(ours), "kernel", 0, [str(theirs)])
    assert cache.load(("float32", "haswell")) == "theirs" and cache.holds(("float32", "haswell"))
    assert cache.load(("float64", "haswell")) is None and not cache.holds(("float64", "haswell"))
    cache.save(("float64", "haswell"), "ours")
    assert cache.load(("float64", "haswell")) == "ours"
    assert sorted(theirs.iterdir()) == before


def test_an_index_that_cannot_be_opened_now_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch):
    cache = CacheFile(str(tmp_path), "kernel", 0)
    cache.save(("float32", "haswell"), "kept")
    with monkeypatch.context() as context:
        context.setattr("builtins.open", lambda *_: os.open(os.devnull, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        assert cache.load(("float32", "haswell")) is None
    assert cache.load(("float32", "haswell")) == "kept"


def test_processors_that_share_a_folder_keep_their_own_code(tmp_path):
    generic = {"NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(tmp_path)}
    here = {"NUMBA_CACHE_DIR": str(tmp_path)}
    compiled = [int(in_child(PROGRAM, **target)[0]) for target in (generic, here, generic, here)]
    assert compiled[0] == compiled[1] > 0
    assert compiled[2:] == [0, 0]


def test_what_is_written_with_a_sum_is_rounded_as_it_is_written():
    """The compiler may take a sum in any order, but a formula is none of its terms."""

    def rounded(x):
        return (x + 12582912.0) - 12582912.0

    x = np.linspace(0, 40.3, 777, dtype=np.float32).reshape(1, 1, 777)
    total = np.zeros(1, np.float32)
    cpu.channel_sum(rounded, (x,), (), (), total)
    assert total[0] == np.rint(x).sum()


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: content[:-9], lambda content: content[:60] + bytes(len(content) - 60)],
)
def test_a_damaged_file_of_the_cache_is_dropped_and_the_kernel_compiled_again(tmp_path, ending, damage):
    cache = CacheFile(str(tmp_path), "kernel", 0)
    cache.save(("float32", "haswell"), "x" * 100)
    (path,) = tmp_path.glob(f"*.{ending}")
    path.write_bytes(damage(path.read_bytes()))
    assert cache.load(("float32", "haswell")) is None
    assert not path.exists()
    cache.save(("float32", "haswell"), "again")
    assert cache.load(("float32", "haswell")) == "again"


def test_what_is_kept_in_a_folder_that_cannot_be_written_is_read_and_the_rest_compiled(tmp_path):
    """As in a container that runs as another user: neither the package's folder nor HOME takes a cache."""
    code = """
import os, shutil, sys
from numba.core import caching, config, event
def unwritable(self):
    raise OSError("read-only")
if "read-only" in sys.argv:
    for locator in caching.FunctionCache._impl_class._locator_classes:
        locator.ensure_cache_path = unwritable
import numpy as np
from minicaffe.kernels.cpu.transform import subtract_mean
compiled = event.RecordingListener()
event.register("numba:compile", compiled)
def minus_mean(images):
    out = np.empty((1, 1, 1, 2), np.float32)
    subtract_mean(images, np.zeros((1, 1, 1), np.float32), np.float32(3), np.zeros((1, 2), np.int64), np.ones(1, bool), out)
    return out.sum(), len(compiled.buffer) > 0
kept = minus_mean(np.ones((1, 1, 1, 2), np.uint8))
if "gone" in sys.argv:
    os.rename(config.CACHE_DIR, config.CACHE_DIR + " moved")
    open(config.CACHE_DIR, "w").close()
print(*kept, *minus_mean(np.ones((1, 1, 1, 2), np.uint16)))
"""
    folder = tmp_path / "cache"
    assert in_child(code, "gone", NUMBA_CACHE_DIR=str(folder)) == ["6.0", "True", "6.0", "True"]
    folder.unlink()
    folder.with_name("cache moved").rename(folder)
    assert in_child(code, "read-only", NUMBA_CACHE_DIR=str(folder)) == ["6.0", "False", "6.0", "True"]


ELSEWHERE = """
import os, sys
import numpy as np
from numba.core import caching
def unwritable(self):
    raise OSError("read-only")
caching.InTreeCacheLocator.ensure_cache_path = unwritable
caching.InTreeCacheLocator.get_cache_path = lambda self: os.environ["XDG_CACHE_HOME"] + " empty"
if "nowhere" in sys.argv:
    caching.UserWideCacheLocator.ensure_cache_path = unwritable
from minicaffe.kernels.cpu.matmul.gemm import gemm
from minicaffe.kernels.cpu.runtime import cache
for dtype in (np.float32, np.float64):
    gemm(np.ones((2, 2), dtype), np.ones((2, 2), dtype), np.empty((2, 2), dtype))
print(cache.complaint())
"""


@pytest.mark.parametrize("places, told", [((), "kept elsewhere"), (("nowhere",), "every process compiles them anew")])
def test_a_cache_folder_that_cannot_be_written_is_told_once(tmp_path, places, told):
    file = tmp_path / "file"
    file.touch()
    environment = os.environ | {"NUMBA_CACHE_DIR": str(file), "XDG_CACHE_HOME": str(tmp_path / "home")}
    run = subprocess.run([sys.executable, "-c", ELSEWHERE, *places], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert str(file) in run.stdout and told in run.stdout and "Set NUMBA_CACHE_DIR" in run.stdout
    assert run.stderr == run.stdout


def test_nothing_is_told_of_a_cache_folder_that_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "new"))
    assert complaint() == ""
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setattr(caching.InTreeCacheLocator, "ensure_cache_path", lambda self: None)
    assert complaint() == ""


@jit.kernel()
def _of_two(a, b, least, largest):
    least[0], largest[0] = min(a, b), max(a, b)
    least[1], largest[1] = min(b, a, b), max(b, a, b)


@pytest.mark.parametrize(
    ("a", "b", "kind"),
    [(3, -5, np.int64), (np.float32(np.nan), 2, np.float32)],
)
def test_minima_and_maxima_are_pythons_whatever_their_number(a, b, kind):
    for first, second in ((a, b), (b, a)):
        least, largest = np.zeros(2, kind), np.zeros(2, kind)
        _of_two(first, second, least, largest)
        np.testing.assert_array_equal(least, [min(first, second), min(second, first, second)])
        np.testing.assert_array_equal(largest, [max(first, second), max(second, first, second)])


@jit.kernel()
def _arrays(n, like):
    flat, deep = np.empty(n, like.dtype), np.zeros((np.int32(3), n, 4), np.int32)
    for i in range(n):
        flat[i] = i
    return flat, deep, np.zeros((n, 2)), np.zeros(n)


def test_arrays_that_kernels_make_are_numpys():
    like = np.zeros(1, np.float32)
    made = _arrays(5, like)
    for found, wanted in zip(
        made,
        (np.arange(5, dtype=np.float32), np.zeros((3, 5, 4), np.int32), np.zeros((5, 2)), np.zeros(5)),
        strict=True,
    ):
        np.testing.assert_array_equal(found, wanted, strict=True)
        assert found.strides == wanted.strides
    assert [array.shape for array in _arrays(0, like)] == [(0,), (3, 0, 4), (0, 2), (0,)]
    for n in (1 << 58, 1 << 62, (1 << 63) - 1):  # the bytes of the last two do not fit a word
        with pytest.raises(MemoryError):
            _arrays(n, like)


@jit.kernel()
def _read_table(table, part, found):
    first, last = share(part, 3, 10)
    some = some_of(table, 1, 2)
    found[0], found[1], found[2], found[3] = first, last, some[0, 1], len(some)
    found[4], found[5] = word(table.ctypes.data + 8), align(np.intp(LINE + 1))
    found[6], found[7] = words(table.ctypes.data + 16, 3)[2], word_rows(table.ctypes.data, 3, 2)[2, 0]


def test_words_of_a_table_are_where_they_are():
    found = np.zeros(8, np.int64)
    _read_table(np.arange(8).reshape(4, 2), 1, found)
    assert found.tolist() == [3, 6, 3, 2, 1, 2 * LINE, 4, 4]


def test_only_kernels_that_allocate_count_references():
    @jit.kernel(stamp="_plain")
    def doubled(x):
        for i in range(x.size):
            x[i] *= 2

    @jit.kernel(stamp="_copied")
    def through_a_copy(x):
        kept = np.empty(x.size, x.dtype)
        for i in range(x.size):
            kept[i] = 2 * x[i]
        for i in range(x.size):
            x[i] = kept[i]

    for made, allocates in ((doubled, False), (through_a_copy, True)):
        x = np.arange(3.0)
        made(x)
        assert x.tolist() == [0, 2, 4]
        assert made.targetoptions["_nrt"] == allocates


COLORAMA = """
import atexit
__version__ = "0.4.6"
class Codes:
    def __getattr__(self, name):
        return ""
Fore = Style = Codes()
def init():
    atexit.register(print, "reset")
def reinit():
    pass
deinit = reinit
"""
MESSAGE = """
from minicaffe.kernels import cpu
from numba.core.errors import ColorShell, TypingError
print(TypingError("wrong"))
"""


def test_nothing_is_written_to_stdout_for_the_sake_of_colours(tmp_path):
    (tmp_path / "colorama.py").write_text(COLORAMA)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment.pop("NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING", None)
    found = subprocess.run([sys.executable, "-c", MESSAGE], env=environment, capture_output=True, text=True)
    assert (found.stdout, found.returncode) == ("wrong\n", 0), found.stderr
