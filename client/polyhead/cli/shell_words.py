"""Messages for the shell, which name flags where the client's name arguments of Python."""

from __future__ import annotations

__all__ = ["SPELLINGS", "in_shell_words"]

SPELLINGS = {
    "give a longer timeout": "give a longer --timeout",
    "of tls= (--tls-ca)": "of --tls-ca",
    "by tls= (--tls, --tls-ca)": "by --tls or --tls-ca",
    "name one of its layers, or call Forward": "name one of its layers, or use polyhead forward",
    "(tls=True, --tls)": "(--tls)",
    "give no token (token='', or unset POLYHEAD_TOKEN)": "unset POLYHEAD_TOKEN",
    "(allow_plaintext_token=True, --allow-plaintext-token)": "(--allow-plaintext-token)",
    "as polyhead's clients do with token= or POLYHEAD_TOKEN": "with --token-file or POLYHEAD_TOKEN",
    "(Weights selects heads, queries and top_k)": "(--heads, --queries, --top-k)",
    "for blocks of rows (attend_rows) or for a smaller output_dtype": (
        "or for a smaller --output-dtype"
    ),
    "(need_output=False, omit_output)": "(--no-output)",
    "(attend_rows, AttendRows)": "(in Python: attend_rows)",
    "top_k of at most": "--top-k of at most",
    "for top_k, or for average_heads": "for --top-k, or for --average-heads",
    "client.forward(text, model=...)": "polyhead forward TEXT --model NAME",
    "a whole model takes them, client.forward(token_ids=..., model=...)": (
        "a whole model takes the text itself, polyhead forward TEXT --model NAME"
    ),
    "set truncate=True": "give --truncate",
}
"""Words of messages of the client or the server, and their replacements in a shell."""


def in_shell_words(message: str) -> str:
    """Return a message with flags in place of Python's arguments."""
    for python, shell in SPELLINGS.items():
        message = message.replace(python, shell)
    return message
