"""Schemathesis tests a `DispatchApp` against its OpenAPI document, on all stores at once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dispatch.app import KEY
from tests.parts import untraced_environment
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres
from tests.web.servers import WebServer
from tests.web.test_schemathesis import CHECKS

EXAMPLES = 8
"""Random requests for each operation, beside those that cover its schema."""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nothing_that_it_tries_breaks_the_contract(tmp_path: Path, postgres: Server) -> None:
    """No 5xx, no status or content type that is not described, and every body fits its schema, whatever the store."""
    places = [["memory"], ["sqlite", str(tmp_path / "dispatch.db")], ["postgres", postgres.dsn, fresh_schema()]]
    env = {"NOTIFY_STORE": json.dumps(places)}
    with WebServer("uvicorn", "tests.dispatch.contract:app", tmp_path, ready="/openapi.json", env=env) as web:
        command = [
            str(Path(sys.executable).parent / "schemathesis"), "run", f"{web.url}/openapi.json",
            "--url", web.url, "--header", f"Authorization: Bearer {KEY}",
            "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--mode", "all",
            "--max-examples", str(EXAMPLES), "--generation-deterministic",
            "--request-timeout", "20", "--workers", "1", "--no-color",
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=tmp_path, env=untraced_environment(), capture_output=True, text=True, timeout=220
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert "Traceback" not in web.log
    tested = re.search(r"Tested: +(\d+)", done.stdout)
    assert tested is not None, done.stdout
    assert int(tested[1]) >= 20, done.stdout
