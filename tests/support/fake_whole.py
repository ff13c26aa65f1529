"""A whole model that computes nothing sensible, and answers as the contract says.

"bert" has one stack and a tokenizer; "t5" has an encoder and a decoder, and a tokenizer; "clip" has
two towers. Each stack has 3 layers of 2 heads.
"""

from __future__ import annotations

import re

import numpy as np

from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import forward_pb2 as fpb
from polyhead.wire.tensors import to_tensor

NUM_LAYERS, NUM_HEADS, WIDTH, NUM_PATCHES = 3, 2, 4, 5
STACKS = {"bert": ("encoder",), "t5": ("encoder", "decoder"), "clip": ("text", "vision")}


def tokenize(text):
    """Words cut into pieces of at most 4 letters, as BERT's tokenizer spells them."""
    tokens = [fpb.Token(text="[CLS]", id=1)]
    for word in re.finditer(r"\w+|[^\w\s]", text):
        for start in range(word.start(), word.end(), 4):
            end = min(start + 4, word.end())
            piece = ("##" if start > word.start() else "") + text[start:end].lower()
            tokens.append(fpb.Token(text=piece, id=2 + sum(piece.encode()), start=start, end=end))
    tokens.append(fpb.Token(text="[SEP]", id=2, start=len(text), end=len(text)))
    return fpb.TokenizedText(tokens=tokens)


def whole_weights(layer, kind, query_lengths, key_lengths):
    """(batch_size, heads, queries, keys) that depend on layer, kind and lengths; padding is 0."""
    shape = (len(query_lengths), NUM_HEADS, max(query_lengths), max(key_lengths))
    weights = np.zeros(shape, np.float32)
    for n, (queries, keys) in enumerate(zip(query_lengths, key_lengths, strict=True)):
        seed = np.random.default_rng([layer, len(kind), queries, keys])
        rows = seed.random((NUM_HEADS, queries, keys), np.float32) + 0.1
        weights[n, :, :queries, :keys] = rows / rows.sum(axis=-1, keepdims=True)
    return weights


def whole_states(stack, layer, lengths):
    states = np.zeros((len(lengths), max(lengths), WIDTH), np.float32)
    for n, length in enumerate(lengths):
        states[n, :length] = 100 * layer + len(stack) + np.arange(length)[:, None]
    return states


class _Forward:
    def __init__(self, request):
        self.request = request
        self.names = STACKS[request.model]
        self.tokens = [tokenize(text) for text in request.texts]
        self.lengths = self._lengths()
        self.stacks = [name for name in self.names if name in self.lengths]

    def _lengths(self):
        """Numbers of valid tokens by stack, for those that take part; memory is the encoder's."""
        request, lengths = self.request, {}
        first = self.names[0]
        if self.tokens:
            lengths[first] = [len(text.tokens) for text in self.tokens]
        for field in ("token_ids", "hidden_states", "memory"):
            if request.HasField(field):
                shape = getattr(request, field).shape
                own = request.memory_lengths if field == "memory" else request.lengths
                lengths[first] = list(own) or [shape[1]] * shape[0]
        if request.HasField("pixel_values"):
            lengths["vision"] = [NUM_PATCHES] * request.pixel_values.shape[0]
        if request.HasField("decoder_token_ids"):
            shape = request.decoder_token_ids.shape
            lengths["decoder"] = list(request.decoder_lengths) or [shape[1]] * shape[0]
        return lengths

    def layers(self):
        end = self.request.last_layer + 1 if self.request.HasField("last_layer") else NUM_LAYERS
        for stack in self.stacks:
            if stack == "encoder" and self.request.HasField("memory"):
                continue
            last = end if stack == self.stacks[-1] else NUM_LAYERS
            yield stack, range(self.request.first_layer.layer, last)

    def ref(self, stack, layer, kind=""):
        named = stack if len(self.names) > 1 else ""
        return fpb.LayerRef(stack=named, layer=layer, kind=kind)

    def attention(self, wanted):
        stack = wanted.layer.stack or self.stacks[0]
        layer, kind = wanted.layer.layer, wanted.layer.kind or "self"
        queries = self.lengths[stack]
        keys = self.lengths["encoder"] if kind == "cross" else queries
        weights = whole_weights(layer, kind, queries, keys)
        rows = np.array([self._rows(wanted, n, weights.shape[2]) for n in range(len(weights))])
        selection = wanted.selection
        weights = weights[:, list(selection.heads) or slice(None)]
        weights = np.take_along_axis(weights, rows[:, None, :, None], axis=2)
        if selection.average_heads:
            weights = weights.mean(axis=1, keepdims=True)
        message = fpb.LayerAttention(layer=self.ref(stack, layer, kind))
        if selection.top_k:
            top = np.argsort(-weights, axis=-1, kind="stable")[..., : selection.top_k]
            weights = np.take_along_axis(weights, top, axis=-1)
            message.top_keys.CopyFrom(to_tensor(top.astype(np.int32)))
        dtype = selection.dtype or self.request.output_dtype or None
        message.attn_weights.CopyFrom(to_tensor(weights, dtype))
        if wanted.query_words:
            message.queries.CopyFrom(to_tensor(rows.astype(np.int32)))
        return message

    def _rows(self, wanted, sequence, num_rows):
        rows = list(wanted.selection.queries)
        for word in wanted.query_words:
            text = self.request.texts[sequence]
            for found in re.finditer(rf"\b{re.escape(word)}\b", text):
                tokens = self.tokens[sequence].tokens
                rows += [n for n, token in enumerate(tokens) if token.end == found.end()][:1]
        return rows or range(num_rows)

    def every_attention(self, wanted):
        for stack, layers in self.layers():
            for layer in layers:
                kinds = ("self", "cross") if stack == "decoder" else ("self",)
                for kind in kinds:
                    own = fpb.LayerWeights(
                        layer=fpb.LayerRef(stack=stack, layer=layer, kind=kind),
                        selection=wanted.selection,
                        query_words=wanted.query_words,
                    )
                    yield self.attention(own)

    def states(self, stack, layer):
        states = whole_states(stack, layer, self.lengths[stack])
        tensor = to_tensor(states, self.request.output_dtype or None)
        return fpb.LayerHiddenStates(layer=self.ref(stack, layer), hidden_states=tensor)

    def response(self):
        request = self.request
        response = fpb.ForwardResponse(
            request_id=request.request_id, tokens=self.tokens, lengths=self.lengths[self.stacks[0]]
        )
        response.execution.model = request.model
        if not request.omit_output:
            last = self.stacks[-1]
            states = whole_states(last, NUM_LAYERS, self.lengths[last])
            response.output.CopyFrom(to_tensor(states, request.output_dtype or None))
        for wanted in request.attn_weights:
            every = self.every_attention(wanted) if not wanted.HasField("layer") else None
            response.attn_weights.extend(every or [self.attention(wanted)])
        for ref in request.hidden_states_wanted:
            response.hidden_states.append(self.states(ref.stack or self.stacks[0], ref.layer))
        for stack, layers in self.layers():
            run = fpb.LayersRun(stack=stack, first_layer=layers.start, num_layers=len(layers))
            response.layers_run.append(run)
            if request.all_hidden_states:
                wanted = range(layers.start, layers.stop + 1)
                response.hidden_states.extend(self.states(stack, layer) for layer in wanted)
        return response


def forward(request):
    """Answer a ForwardRequest."""
    return _Forward(request).response()


def describe(name):
    """Describe one of the models."""
    block = pb.AttentionSpec(
        num_heads=NUM_HEADS,
        num_kv_heads=NUM_HEADS,
        embed_dim=WIDTH,
        head_dim=2,
        scale=2**-0.5,
        has_in_proj=True,
        has_out_proj=True,
        precision="float32",
    )
    stacks = []
    for stack in STACKS[name]:
        cross = block if stack == "decoder" else None
        layer = pb.LayerSpec(self_attention=block, cross_attention=cross)
        is_vision = stack == "vision"
        stacks.append(
            pb.StackSpec(
                name=stack,
                input="pixel_values" if is_vision else "token_ids",
                hidden_size=WIDTH,
                output_size=WIDTH,
                vocab_size=0 if is_vision else 1000,
                max_length=512,
                input_shape=[3, 8, 8] if is_vision else [],
                layers=[layer] * NUM_LAYERS,
            )
        )
    return pb.Model(
        name=name,
        version=1,
        state=pb.MODEL_STATE_READY,
        whole=pb.WholeModelSpec(stacks=stacks, has_tokenizer=True),
    )
