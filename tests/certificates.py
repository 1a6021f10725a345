"""Certificates that openssl makes: an authority, and what it signs."""

from __future__ import annotations

import subprocess
from pathlib import Path

_NEW = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """Signs certificates. Its own is `pem`; all files are in `folder`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.pem, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        self._folder = folder
        subject = ("-days", "2", "-subj", f"/CN={name}")
        _openssl("req", "-x509", *_NEW, *subject, "-keyout", self._key, "-out", self.pem)

    def sign(self, name: str, days: int = 2) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 and localhost, and its key; expired if `days` is below 0."""
        pem, key, asked, extensions = (
            self._folder / f"{name}.{kind}" for kind in ("pem", "key", "csr", "ext")
        )
        _openssl("req", *_NEW, "-subj", f"/CN={name}", "-keyout", key, "-out", asked)
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        signing = ("-CA", self.pem, "-CAkey", self._key, "-CAcreateserial", "-days", str(days))
        _openssl("x509", "-req", "-in", asked, *signing, "-extfile", extensions, "-out", pem)
        return pem, key


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
