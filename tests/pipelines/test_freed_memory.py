"""Freed memory stays with the process: taking it again costs no page faults."""

import os
import platform
import subprocess
import sys

import pytest

MEBIBYTES = 64
needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another libc, which has no mallopt")
# glibc gives blocks of this size back at once, and threads other than the first one have arenas of their own.
CODE = f"""
import ctypes, resource, threading
from pipelines.freed_memory import keep_freed_memory
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
faults = []
def work():
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc({MEBIBYTES} << 20)
        libc.memset(block, 1, {MEBIBYTES} << 20)
        libc.free(block)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(faults[-1])
"""


def _printed_number(code: str, *arguments: str, **environment: str) -> int:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=True)
    return int(done.stdout)


def _faults_of_the_third_time(**environment: str) -> int:
    return _printed_number(CODE, **environment)


@needs_glibc
def test_memory_is_taken_again_without_faults():
    assert _faults_of_the_third_time() < 10


@needs_glibc
def test_what_the_environment_says_of_malloc_stands():
    assert _faults_of_the_third_time(MALLOC_TRIM_THRESHOLD_="131072") > 10


def test_commands_of_the_network_do_it_and_others_do_not():
    code = (
        "import sys, pipelines.command as command\n"
        "called = []\n"
        "command.keep_freed_memory = lambda: called.append(1)\n"
        "command._run = lambda argv: 0\n"
        "for name in ('train', 'eval', 'sample', 'sample-quality', 'prepare', 'plan', '--help'):\n"
        "    sys.argv = ['vdm', name]\n"
        "    try:\n"
        "        command.program()\n"
        "    except SystemExit:\n"
        "        print(name, len(called))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == [
        "train 1", "eval 2", "sample 3", "sample-quality 4", "prepare 4", "plan 4", "--help 4",
    ]  # fmt: skip


# While a program has its block, something small is taken that stays; the next block is as large and a few bytes more,
# as glibc takes for an aligned one.
PROGRAM = f"""
import ctypes, sys
from pipelines.freed_memory import keep_freed_memory, make_room_beside
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
large = {MEBIBYTES} << 20
if sys.argv[1:] == ["with_room"]:
    make_room_beside(large)
places = []
for step in range(20):
    block = libc.malloc(large + 64 * step)
    places.append(block)
    kept = libc.malloc(1 << 20)
    libc.free(block)
print((max(places) - min(places)) >> 20)
"""


def _mib_that_the_block_moved(*arguments: str) -> int:
    return _printed_number(PROGRAM, *arguments)


@needs_glibc
def test_the_largest_block_finds_its_memory_again():
    assert _mib_that_the_block_moved() >= MEBIBYTES
    assert _mib_that_the_block_moved("with_room") == 0
