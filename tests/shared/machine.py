"""What both commands need of a machine: a virtual environment, and RabbitMQ's server."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / ".venv"


def fail(problem: str) -> None:
    """End with status 1 and one line on stderr."""
    sys.exit(f" [!] {problem}")


def run(what: str, command: list[str], advice: str) -> None:
    """Run it quietly; if it fails, say what failed, the last line it printed, and `advice`."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        said = (done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]
        fail(f"{what} failed: {said} {advice}")


def apt_install(package: str) -> None:
    """Install a Debian or Ubuntu package, as root or with sudo, without starting its services."""
    by_hand = f"Install {package}, then run this again."
    if not shutil.which("apt-get"):
        fail(f"{package} is missing, and there is no apt-get to install it with. {by_hand}")
    root = [] if os.geteuid() == 0 else ["sudo"]
    if root and not shutil.which("sudo"):
        fail(f"{package} is missing, and only root may install it. {by_hand}")
    print(f"Installing {package}, once.", flush=True)
    # policy-rc.d: the package would else start a broker that all the network can reach.
    script = (
        "set -e; export DEBIAN_FRONTEND=noninteractive; p=/usr/sbin/policy-rc.d;"
        ' if ! [ -e $p ]; then trap "rm -f $p" EXIT; trap "exit 1" INT TERM;'
        ' printf "#!/bin/sh\\nexit 101\\n" >$p; chmod +x $p; fi;'
        " apt-get update -qq;"
        ' apt-get install -qq --no-install-recommends -o DPkg::Lock::Timeout=120 "$0"'
    )
    run(f"Installing {package}", [*root, "sh", "-c", script, package], by_hand)


def make_venv(python: str) -> None:
    """Make .venv, whose Python this is, where it is missing or was left half made."""
    has_pip = [python, "-m", "pip", "--version"]
    if VENV.exists() and not subprocess.run(has_pip, capture_output=True, check=False).returncode:
        return
    if not importlib.util.find_spec("ensurepip"):  # Debian ships it in a package of its own
        apt_install(f"python3.{sys.version_info.minor}-venv")
    print(f"Making a virtual environment in {VENV}, once.", flush=True)
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    run("Making it", command, "Is the folder writable?")


def enter_venv(*requirements: str) -> None:
    """Go on inside .venv, made where it is missing, with the packages of these files installed."""
    if sys.version_info < (3, 9):
        fail(f"This is Python {sys.version.split()[0]}. Run it with Python 3.9 or newer.")
    if Path(sys.prefix) != VENV:
        python = str(VENV / "bin" / "python")
        make_venv(python)
        os.execv(python, [python, *sys.argv])
    files = [option for name in requirements for option in ("-r", str(ROOT / name))]
    command = [sys.executable, "-m", "pip", "install", "-q", *files]
    run("pip install", command, "Can this machine reach PyPI?")
    importlib.invalidate_caches()  # this Python has looked for packages before they came


def need_rabbitmq(server: str) -> None:
    """Install the distribution's RabbitMQ if it is missing, and no other is asked for."""
    if not Path(server).exists() and "RABBITMQ_SERVER" not in os.environ:
        apt_install("rabbitmq-server")
    if not Path(server).exists():
        fail(f"There is no {server}. Set RABBITMQ_SERVER to where rabbitmq-server is.")
