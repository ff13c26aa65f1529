"""Bytes on the wire, shared with the server: protobuf, templates of messages, tensors."""
