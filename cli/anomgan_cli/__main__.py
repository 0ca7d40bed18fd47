"""``python -m anomgan_cli``: the same as the ``anomgan`` command."""

from __future__ import annotations

from anomgan_cli.main import app

if __name__ == "__main__":
    app()
