"""Every setting of the server, with its flag, environment variable and check."""

from __future__ import annotations

from polyhead_server.settings.server_settings import ServerSettings

__all__ = ["ServerSettings"]
