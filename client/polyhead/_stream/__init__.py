"""Requests over an AttendStream, and results in blocks of rows."""
