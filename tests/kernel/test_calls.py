"""The native code of calls under sanitizers: the tests of the ASGI application and of callers, in another process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.conftest import SOURCE
from tests.support.tiers import full

FLAGS = ("-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TESTS = ("tests/kanserve/transport/test_asgi.py", "tests/kanserve/grpc_api/hot_path/test_batch.py")


@full("package")
def test_native_calls_read_nothing_beside_them(tmp_path: Path) -> None:
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if not compiler:
        pytest.skip("the native code is not built here: there is no g++")
    package = tmp_path / "kanserve_kernel"
    package.mkdir()
    (package / "__init__.py").touch()
    source = str(SOURCE / "src" / "calls.cpp")
    subprocess.run([compiler, *FLAGS, source, "-o", str(package / "calls.abi3.so")], check=True)
    libraries = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    root = SOURCE.parent
    variables = {
        "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, root, root / "service"))),
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter keeps much until its end
        "PYTHONMALLOC": "malloc",
    }
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "-k", "native or batch"]
    around = {"cwd": root, "env": os.environ | variables, "timeout": 900}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *TESTS], capture_output=True, text=True, check=False, **around
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout, done.stdout
