"""Schemathesis reads the OpenAPI document and tries to break its promises, on a real server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parts import untraced_environment
from tests.web.apps.contract import SECRET
from tests.web.servers import WebServer

EXAMPLES = 12
"""Random requests for each operation, beside those that cover its schema."""

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nothing_that_it_tries_breaks_the_contract(tmp_path: Path) -> None:
    """No 5xx, no status or content type that is not described, and every body fits its schema."""
    # One worker: two threads that parse Python at once confuse the parser of CPython 3.11.
    with WebServer("uvicorn", "tests.web.apps.contract:app", tmp_path) as server:
        command = [
            str(Path(sys.executable).parent / "schemathesis"), "run", f"{server.url}/openapi.json",
            "--url", server.url, "--header", f"Authorization: Bearer {SECRET}",
            "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--mode", "all",
            "--max-examples", str(EXAMPLES), "--generation-deterministic",
            "--request-timeout", "20", "--workers", "1", "--no-color",
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=tmp_path, env=untraced_environment(), capture_output=True, text=True, timeout=220
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    tested = re.search(r"Tested: +(\d+)", done.stdout)
    assert tested is not None, done.stdout
    assert int(tested[1]) >= 8, done.stdout
