"""How a user calls polyhead: mypy --strict must accept it, and find these types."""

from typing import assert_type

import numpy as np

import polyhead


def attend(target: str) -> polyhead.AttentionResult:
    query = np.zeros((1, 10, 6), np.float32)
    with polyhead.Client(target, timeout=5) as client:
        assert_type(client.models(), list[polyhead.ModelInfo])
        assert_type(client.server_info().limits, polyhead.ServerLimits)
        result = client.attend(
            query,
            model="river-bank",
            attn_mask=np.ones((10, 10), bool),
            kv_lengths=[10],
            positions=np.arange(10),
            need_weights=polyhead.Weights(heads=0, queries=[9], top_k=3, stage="scores"),
            output_dtype="float16",
        )
        with client.attend_rows(query, model="river-bank", need_output=False) as blocks:
            for rows in blocks:
                assert_type(rows, polyhead.AttentionRows)
                assert_type(rows.queries, tuple[int, ...])
        for one in client.attend_many([query, {"query": query}], model="river-bank"):
            assert_type(one, polyhead.AttentionResult)
        for outcome in client.attend_many([query], model="river-bank", return_exceptions=True):
            assert_type(outcome, polyhead.AttentionResult | polyhead.PolyheadError)
        assert_type(result.top(["w"] * 10, 9), list[tuple[str, float]])
        result.plot(["w"] * 10, head=0).savefig("weights.png")
        whole = client.forward(
            ["Tom is at the river bank", "money in the bank"],
            model="minilm",
            need_weights={3: polyhead.Weights(queries=["bank", 0], top_k=5), ("cross", 1): True},
            need_hidden_states=(0, ("decoder", 6)),
            last_layer=6,
        )
        assert_type(whole, polyhead.ForwardResult)
        chosen = polyhead.Vectors(kinds=("query", "context"), heads=2, queries=[9])
        vectors = client.forward(token_ids=[[1]], model="minilm", head_vectors={3: chosen})
        assert_type(vectors.head_vectors[3], polyhead.HeadVectors)
        block = client.attend(query, model="bert", head_vectors=True)
        assert_type(block.head_vectors, polyhead.HeadVectors | None)
        assert_type(whole.tokens, list[list[str]])
        assert_type(whole.attn_weights[3].ndim, int)
        assert_type(whole.top("bank", layer=3), list[tuple[str, float]])
        assert_type(whole.layers_run["encoder"], range)
        assert_type(whole.explore(batch=1), polyhead.ExplorerPage)
        result.explore(["w"] * 10).save("attention.html")
        whole.plot(layers=True).savefig("layers.png")
        client.attend(whole.hidden_states[0], model="minilm", layer=("cross", 3))
        client.forward(token_ids=[[1]], model="minilm", need_weights=polyhead.Weights(heads=1))
        for stack in (
            client.model("minilm").whole or polyhead.WholeModelSpec(stacks=(), has_tokenizer=False)
        ).stacks:
            assert_type(stack, polyhead.StackSpec)
    if result.attn_weights is not None:
        assert_type(result.attn_weights.ndim, int)
    assert_type(result.execution.compute_ms, float)
    return result


def connect(token: str) -> polyhead.Client:
    tls = polyhead.TLSConfig.from_files(root_certificates="ca.pem", server_name="polyhead.example")
    assert_type(tls, polyhead.TLSConfig)
    return polyhead.Client("host:50051", tls=tls, token=token, allow_plaintext_token=False)


async def attend_async(target: str) -> polyhead.AttentionResult:
    query = np.zeros((1, 10, 6), np.float32)
    async with polyhead.AsyncClient(target, transport="stream", connections=2) as client:
        async for one in client.attend_many((query for _ in range(9)), model="river-bank"):
            assert_type(one, polyhead.AttentionResult)
        async with client.attend_rows(query, model="river-bank", rows_per_block=2) as blocks:
            async for rows in blocks:
                assert_type(rows, polyhead.AttentionRows)
        whole = await client.forward("a text", model="minilm", need_weights=True)
        assert_type(whole, polyhead.ForwardResult)
        return await client.attend([[[0.0] * 6]], model="river-bank")
