"""Packages of npm that tests run: installed once for each `package.json`, by exact version, and kept beside it."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def install(folder: Path) -> Path:
    """Install what a folder's `package.json` names, unless that was done since it was changed last.

    The tests run in several processes; one installs, the others wait.
    """
    wanted, installed = folder / "package.json", folder / "node_modules" / ".installed"
    with (folder / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists() or installed.stat().st_mtime < wanted.stat().st_mtime:
            command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
            assert done.returncode == 0, f"npm install failed in {folder}:\n{done.stdout}{done.stderr}"
            installed.touch()
    return folder
