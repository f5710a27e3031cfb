"""Certificates for servers with TLS, made with openssl: an authority, a server's, a client's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


class Certificates:
    """An authority and what it has signed, in a directory.

    Args:
        directory: where the files go.
        owner: of the keys, which servers insist on owning.
    """

    def __init__(self, directory: Path, owner: str = "") -> None:
        self.authority = directory / "ca.crt"
        self._directory = directory
        self._owner = owner if os.geteuid() == 0 else ""
        directory.chmod(0o755)
        self._run("req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-days", "2",
                  "-subj", "/CN=authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip

    def sign(self, name: str, *subjects: str) -> tuple[Path, Path]:
        """Return certificate and key for these alternative names, such as `DNS:localhost`."""
        request, extensions = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={','.join(subjects)}\n" if subjects else "")
        certificate, key = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        self._run("req", "-newkey", "ed25519", "-nodes", "-keyout", str(key), "-out", str(request), "-subj",
                  f"/CN={name}")  # fmt: skip
        self._run("x509", "-req", "-in", str(request), "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out",
                  str(certificate), "-days", "2", "-extfile", str(extensions))  # fmt: skip
        key.chmod(0o600)
        if self._owner:
            shutil.chown(key, self._owner, self._owner)
        return certificate, key

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            ["openssl", *arguments], cwd=self._directory, capture_output=True, text=True, check=False, timeout=30
        )
        assert done.returncode == 0, done.stderr
