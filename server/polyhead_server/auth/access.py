"""The roles that may call each method, once a server asks for tokens.

A method that is not listed here needs the role admin, so that one that is added later, such as a
debugging service, is closed until somebody decides otherwise.
"""

from __future__ import annotations

from polyhead_server.auth.tokens import ADMIN, INFER

__all__ = ["roles_that_may_call"]

_ANYONE = frozenset({INFER, ADMIN})
_METHODS: dict[str, dict[str, frozenset[str]]] = {
    "grpc.health.v1.Health": dict.fromkeys(("Check", "Watch"), frozenset()),
    "polyhead.v1.AttentionService": {
        **dict.fromkeys(("Attend", "AttendRows", "AttendStream", "Forward"), frozenset({INFER})),
        **dict.fromkeys(("ListModels", "GetModel", "GetServerInfo"), _ANYONE),
    },
    "inference.GRPCInferenceService": {
        # KServe and tritonclient ask these for health
        **dict.fromkeys(("ServerLive", "ServerReady"), frozenset()),
        **dict.fromkeys(("ModelInfer", "ModelStreamInfer"), frozenset({INFER})),
        **dict.fromkeys(("ModelReady", "ModelMetadata", "ModelConfig"), _ANYONE),
        **dict.fromkeys(("ServerMetadata", "RepositoryIndex"), _ANYONE),
    },
}


def roles_that_may_call(method: str) -> frozenset[str]:
    """Return the roles of which a caller needs one; empty: the method needs no token.

    ``method``: Service/Method.
    """
    service, _, name = method.partition("/")
    return _METHODS.get(service, {}).get(name, frozenset({ADMIN}))
