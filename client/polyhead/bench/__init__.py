"""`polyhead bench`: a load generator for users of a server.

cli.py declares the arguments and command.py carries them out. fleet.py starts the processes that
send load, and worker.py is one of them. There loops.py sends the requests of payloads.py at the
times of arrivals.py, and samples.py records the outcome. report/ summarises it.

One word each: a *workload* says what is sent, a *plan* how and how long, and a *run* carries out
one plan: warm-up first, then the measurement.
"""
