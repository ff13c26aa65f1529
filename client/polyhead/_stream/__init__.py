"""Requests over an AttendStream."""
