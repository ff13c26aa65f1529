"""A load generator for users of a server: `polyhead bench`.

command.py is the whole run. Load comes from processes of their own (fleet.py starts them,
worker.py is one), so that nothing but load runs there; in each, loops.py sends what payloads.py has
prepared, when arrivals.py says, and samples.py keeps what became of it.
"""
