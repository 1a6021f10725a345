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
        run_openssl("req", "-x509", *_NEW, *subject, "-keyout", self._key, "-out", self.pem)

    def sign(self, name: str, days: int = 2, ca: bool = False) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 and localhost, and its key; expired if `days` is below 0."""
        pem, key, asked, extensions = (
            self._folder / f"{name}.{kind}" for kind in ("pem", "key", "csr", "ext")
        )
        run_openssl("req", *_NEW, "-subj", f"/CN={name}", "-keyout", key, "-out", asked)
        names, may_sign = "IP:127.0.0.1,DNS:localhost", "TRUE" if ca else "FALSE"
        extensions.write_text(f"subjectAltName={names}\nbasicConstraints=CA:{may_sign}\n")
        signing = ("-CA", self.pem, "-CAkey", self._key, "-CAcreateserial", "-days", str(days))
        run_openssl("x509", "-req", "-in", asked, *signing, "-extfile", extensions, "-out", pem)
        return pem, key


def run_openssl(*arguments: str | Path) -> None:
    """Runs a command of openssl that asks nothing."""
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
