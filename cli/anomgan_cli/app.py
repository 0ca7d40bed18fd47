"""The application with all its commands, for what looks at it from outside: tests, references."""

from __future__ import annotations

from anomgan_cli.main import application

__all__ = ["app"]

app = application()
