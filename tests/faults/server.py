"""Forks the real command line from one process that has imported everything already.

A fresh interpreter takes seconds to load torch, a fork milliseconds: that is what lets the fault suite kill a run
fifty times. Each line of standard input is a JSON object:

    module, argv: whose ``main`` to call with what
    cwd, env: where, and with which variables besides those there are; null takes one away
    out: file that standard output goes to
    hook: [name, arguments...] of a function in hooks.py, called first in the child

The answers are ``{"pid": ...}`` once it runs and ``{"code": ..., "err": ..., "cpu": ...}``, as of subprocess, with
the seconds that it took of a processor, once it has ended.
Standard error goes through a pipe, which no limit on files can close.
"""

from __future__ import annotations

import atexit
import gc
import importlib.util
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).parent
PRELOADED = (
    "envs",
    "matplotlib.backends.backend_agg",
    "metarl.building",
    "metarl.evaluate",
    "metarl.presentation.figures",
    "metarl.checks.guard",
    "metarl.outer",
    "metarl.problems.rl",
    "metarl.runs",
    "metarl.train",
    "safetensors.torch",
    "torch.utils.tensorboard",
)


def load(name: str, path: Path) -> None:
    """Import a file under a name, with no change to the path: tests/envs would hide the package envs."""
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def become(request: dict[str, Any], err: int) -> int:
    """Run the command in this process."""
    os.dup2(err, 2)
    os.close(err)
    for number, path in enumerate((os.devnull, request["out"])):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    for name, value in request["env"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if request["hook"]:
        name, *arguments = request["hook"]
        getattr(sys.modules["hooks"], name)(*arguments)
    return sys.modules[request["module"]].main(request["argv"])


def end(code: int) -> NoReturn:
    """End as the interpreter does, but for taking a thousand modules apart: threads, what is registered, buffers."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Serve until standard input ends."""
    for name in PRELOADED:
        importlib.import_module(name)
    load("hooks", HERE / "hooks.py")
    for name in ("oracles", "support", "native_target"):
        load(name, HERE.parent / f"{name}.py")
    gc.freeze()  # else a child's first collection copies every page
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            end(become(json.loads(line), writing))
        os.close(writing)
        print(json.dumps({"pid": pid}), flush=True)
        with os.fdopen(reading) as file:
            err = file.read()
        _, status, used = os.wait4(pid, 0)
        cpu = used.ru_utime + used.ru_stime
        answer = {"code": os.waitstatus_to_exitcode(status), "err": err, "cpu": cpu}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
