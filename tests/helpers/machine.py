"""What the commands need of a machine: a virtual environment, and RabbitMQ's server."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / ".venv"
RABBITMQ = "rabbitmq-server"  # the package of Debian and Ubuntu

# policy-rc.d keeps the package from starting a broker that all the network can reach.
APT_INSTALL = """
set -e
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if ! [ -e $policy ]; then
    trap "rm -f $policy" EXIT
    trap "exit 1" INT TERM
    printf '#!/bin/sh\\nexit 101\\n' >$policy
    chmod +x $policy
fi
apt-get update -qq
apt-get install -qq --no-install-recommends -o DPkg::Lock::Timeout=120 "$0"
"""


def fail(problem: str) -> None:
    """End with status 1 and one line on stderr."""
    sys.exit(f" [!] {problem}")


def apt_install(package: str, advice: str) -> None:
    """Install a Debian or Ubuntu package, as root or with sudo, without starting its services."""
    if not shutil.which("apt-get"):
        fail(f"{package} is missing, and there is no apt-get to install it with. {advice}")
    root = [] if os.geteuid() == 0 else ["sudo"]
    print(f"Installing {package} ...", flush=True)
    subprocess.run([*root, "sh", "-c", APT_INSTALL, package], check=True)


def has_pip(python: str) -> bool:
    """Whether this Python starts, and has pip."""
    with contextlib.suppress(OSError):  # it is not there, or leads nowhere
        return not subprocess.run([python, "-m", "pip", "-V"], capture_output=True).returncode
    return False


def enter_venv(*requirements: str) -> None:
    """Go on inside .venv, with the packages of these files; make it where it is missing or broken.

    Replaces this process, unless it runs there already.
    """
    if sys.version_info < (3, 9):
        fail(f"This is Python {sys.version.split()[0]}. Run it with Python 3.9 or newer.")
    if Path(sys.prefix) != VENV:
        python = str(VENV / "bin" / "python")
        if not has_pip(python):
            if not importlib.util.find_spec("ensurepip"):  # Debian: in a package of its own
                package = f"python3.{sys.version_info.minor}-venv"
                apt_install(package, f"Install {package}, then run this again.")
            print("Making .venv, a virtual environment ...", flush=True)
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        os.execv(python, [python, *sys.argv])
    files = [option for name in requirements for option in ("-r", str(ROOT / name))]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *files], check=True)
    importlib.invalidate_caches()  # this Python has looked for packages before they came


def need_rabbitmq(server: str, advice: str) -> None:
    """Install the distribution's RabbitMQ if it is missing, and no other is asked for."""
    if not Path(server).exists() and "RABBITMQ_SERVER" not in os.environ:
        apt_install(RABBITMQ, advice)
    if not Path(server).exists():
        fail(f"There is no {server}. Set RABBITMQ_SERVER to where it is.")
