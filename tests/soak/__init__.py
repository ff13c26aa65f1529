"""A served process under mixed load for a long time: `python -m tests.soak`.

Client processes call it, cancel, send rubbish and leave replies unread, and are killed and started
again at random. Its memory and its descriptors must stay as they are after the first minute.
"""
