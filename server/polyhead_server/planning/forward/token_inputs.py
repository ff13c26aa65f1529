"""Reads and checks the tokens that enter a stack of a whole model: of texts, or as ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from polyhead_server.planning.forward.stack_input import StackInput, lengths_of, refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_models.whole_config import Stack
    from polyhead_server.engine.whole_model import WholeModel
    from polyhead_server.forward_call import ForwardCall, TokenizedText

__all__ = ["TokenInputs"]

_LENGTHS = {"token_ids": "lengths", "decoder_token_ids": "decoder_lengths"}


class TokenInputs:
    """The tokens of a request. Raises InvalidRequestError if they do not fit the model."""

    def __init__(
        self, call: ForwardCall, model: WholeModel, tokens: tuple[TokenizedText, ...]
    ) -> None:
        """``tokens``: those of the texts, if there are texts."""
        self._call = call
        self._model = model
        self._tokens = tokens

    def read_texts(self, stack: Stack) -> StackInput:
        """Read the tokens of the texts."""
        if self._model.tokenizer is None:
            refuse(
                "texts",
                "is set, but the model was exported without a tokenizer.json; send token_ids, or "
                "export the checkpoint with its tokenizer",
                "NO_TOKENIZER",
            )
        lengths = np.array([tokens.num_tokens for tokens in self._tokens])
        # np.zeros takes memory only for pages that are used, so padding after short texts is free
        ids = np.zeros((len(lengths), int(lengths.max())), np.int64)
        for row, tokens in enumerate(self._tokens):
            valid = ids[row : row + 1, : tokens.num_tokens]
            valid[0] = tokens.ids
            self._check_vocabulary(f"texts[{row}]", valid, lengths[row : row + 1], stack)
        return StackInput(ids, lengths, ids.shape[1], token_types=self._types_of_texts(ids, stack))

    def _types_of_texts(self, ids: NDArray[np.int64], stack: Stack) -> NDArray[np.int64] | None:
        """Return the types that the tokenizer gives tokens, which models without types ignore."""
        if stack.num_types < 2 or not any(each.type_ids.any() for each in self._tokens):
            return None
        types = np.zeros_like(ids)
        for row, tokens in zip(types, self._tokens, strict=True):
            row[: tokens.num_tokens] = tokens.type_ids
        self._check_types("text_pairs", types, stack)
        return types

    def read_ids(self, field: str, stack: Stack) -> StackInput:
        """Read token ids, and their types if the request has them."""
        ids = self._call.arrays[field]
        if ids.ndim != 2:
            got = list(ids.shape)
            refuse(f"{field}.shape", f"expected (batch_size, seq_len); got {got}", "SHAPE_MISMATCH")
        ids = ids.astype(np.int64, copy=False)
        lengths = lengths_of(self._call, _LENGTHS[field], *ids.shape)
        longest = int(lengths.max())
        if 0 < stack.max_length < longest:
            refuse(
                field,
                f"has a sequence of {longest} tokens, and the model takes {stack.max_length}; "
                "shorten it",
                "TOO_LONG",
            )
        self._check_vocabulary(field, ids, lengths, stack)
        types = None
        if field == "token_ids" and "token_type_ids" in self._call.arrays:
            types = self._token_types(ids, lengths, stack)
        return StackInput(ids, lengths, ids.shape[1], token_types=types)

    def _token_types(
        self, ids: NDArray[np.int64], lengths: NDArray[np.int64], stack: Stack
    ) -> NDArray[np.int64] | None:
        """Return the types of the tokens; None if all valid tokens have the first one."""
        types = self._call.arrays["token_type_ids"]
        if types.shape != ids.shape:
            refuse(
                "token_type_ids.shape",
                f"expected {list(ids.shape)}, as token_ids has; got {list(types.shape)}",
                "SHAPE_MISMATCH",
            )
        if not stack.num_types:
            problem = "is set, but the model has no token types; leave it out"
            refuse("token_type_ids", problem, "NOT_APPLICABLE")
        types = types.astype(np.int64)
        types[np.arange(ids.shape[1]) >= lengths[:, None]] = 0  # padding does not run
        self._check_types("token_type_ids", types, stack)
        return types if types.any() else None

    def _check_types(self, field: str, types: NDArray[np.int64], stack: Stack) -> None:
        """Refuse types that the model does not have, or that its graph does not take."""
        num_types = self._model.num_token_types(stack)
        wrong = np.argwhere((types < 0) | (types >= num_types))
        if not len(wrong):
            return
        row, column = map(int, wrong[0])
        got = types[row, column]
        if num_types < stack.num_types and 0 <= got < stack.num_types:
            refuse(
                field,
                "has tokens of other types than 0, which models that were exported by an earlier "
                "polyhead do not take; export the checkpoint again",
                "NOT_APPLICABLE",
            )
        refuse(
            f"{field}[{row}]" if field == "text_pairs" else f"{field}[{row}, {column}]",
            f"expected types from 0 to {num_types - 1}; got {got}",
            "OUT_OF_RANGE",
        )

    def _check_vocabulary(
        self, field: str, ids: NDArray[np.int64], lengths: NDArray[np.int64], stack: Stack
    ) -> None:
        is_valid = np.arange(ids.shape[1]) < lengths[:, None]
        wrong = np.argwhere(is_valid & ((ids < 0) | (ids >= stack.vocab_size)))
        if len(wrong):
            row, column = map(int, wrong[0])
            path = field if field.startswith("texts") else f"{field}[{row}, {column}]"
            refuse(
                path,
                f"expected token ids from 0 to {stack.vocab_size - 1}; got {ids[row, column]}",
                "OUT_OF_RANGE",
            )
