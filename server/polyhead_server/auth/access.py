"""The roles that may call each method, if the server requires tokens.

A method that is not listed here needs the role admin. So a method that is added later, such as a
debugging service, is closed until it is listed.
"""

from __future__ import annotations

from polyhead_server.auth.tokens import ADMIN, INFER

__all__ = ["roles_that_may_call"]

_NO_TOKEN: frozenset[str] = frozenset()
_INFER, _ADMIN, _EITHER = frozenset({INFER}), frozenset({ADMIN}), frozenset({INFER, ADMIN})
_LISTED: dict[frozenset[str], dict[str, tuple[str, ...]]] = {
    _NO_TOKEN: {
        "grpc.health.v1.Health": ("Check", "Watch"),
        # KServe and tritonclient ask these for health
        "inference.GRPCInferenceService": ("ServerLive", "ServerReady"),
    },
    _INFER: {
        "polyhead.v1.AttentionService": ("Attend", "AttendRows", "AttendStream", "Forward"),
        "inference.GRPCInferenceService": ("ModelInfer", "ModelStreamInfer"),
    },
    _EITHER: {
        "polyhead.v1.AttentionService": ("ListModels", "GetModel", "GetServerInfo"),
        "inference.GRPCInferenceService": (
            "ModelReady",
            "ServerMetadata",
            "ModelMetadata",
            "ModelConfig",
            "RepositoryIndex",
        ),
    },
}
_ROLES = {
    f"{service}/{name}": roles
    for roles, services in _LISTED.items()
    for service, names in services.items()
    for name in names
}


def roles_that_may_call(method: str) -> frozenset[str]:
    """Return the roles of which a caller needs one; empty: the method needs no token.

    ``method``: Service/Method.
    """
    return _ROLES.get(method, _ADMIN)
