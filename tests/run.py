#!/usr/bin/env python3
"""Check the pair: ruff, mypy, and the tests. Arguments are pytest's."""

from __future__ import annotations

import os
import subprocess
import sys

from shared.broker import SERVER
from shared.machine import ROOT, enter_venv, need_rabbitmq


def main() -> int:
    enter_venv("requirements.txt", "tests/requirements.txt")
    need_rabbitmq(SERVER)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    checks = (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"])
    for check in (*checks, ["pytest", *sys.argv[1:]]):
        status = subprocess.run([sys.executable, "-m", *check], cwd=ROOT, check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
