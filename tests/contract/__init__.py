"""What any deployment of polyhead must answer, over gRPC alone.

The tests start a server and call it. Others they call by these environment variables:

POLYHEAD_CONTRACT_DEPLOYMENT  which kind is called: server, envoy or ray (capabilities.py)
POLYHEAD_CONTRACT_SERVER      HOST:PORT of one that runs, with the models of `models.py`
POLYHEAD_CONTRACT_CA          PEM file of its authority, if it speaks TLS
POLYHEAD_TOKEN                sent with every call

    python -m tests.contract.models repository
    polyhead serve --models repository &
    POLYHEAD_CONTRACT_SERVER=localhost:50051 pytest tests/contract
"""
