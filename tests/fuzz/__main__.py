"""Fuzz under atheris, which tries what reaches new code: `python -m tests.fuzz [TARGET]`.

Without a target each of them has its turn. A finding ends the run with a traceback and exit code
77; its bytes are in a file `fuzz-TARGET-...` here, and `--replay` gives them to the target again.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1] / "support"))

from tests import fuzz
from tests.fuzz.bounds import MAX_INPUT_BYTES, bounded
from tests.fuzz.minimise import minimise

MEMORY_MIB = 1024


def main():
    arguments = _arguments()
    if arguments.target is None:
        return _fuzz_each(arguments.seconds)
    if arguments.replay:
        return _replay(fuzz.target(arguments.target), arguments.replay)
    if arguments.minimise:
        target, corpus = fuzz.target(arguments.target), fuzz.CORPUS / arguments.target
        corpus.mkdir(parents=True, exist_ok=True)
        folders = [*arguments.minimise, corpus]
        return minimise(target, [file for each in folders for file in each.iterdir()], corpus)
    import atheris

    # what replaces values is instrumented too, because it tells more than the library does
    packages = ["polyhead", "polyhead_models", "polyhead_server", "tests.fuzz.json_values"]
    with atheris.instrument_imports(include=packages):
        target = fuzz.target(arguments.target)
    seeds = target.seeds()
    target.check(seeds[0])  # loads what the target has, which counts for no input
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            (Path(folder) / hashlib.sha256(seed).hexdigest()).write_bytes(seed)
        folders = [folder, *fuzz.CORPUS.glob(arguments.target)]
        options = [f"-max_total_time={arguments.seconds}", "-print_final_stats=1"]
        if arguments.keep:
            folders.insert(0, arguments.keep)
        options += [f"-max_len={MAX_INPUT_BYTES}", f"-rss_limit_mb={MEMORY_MIB}", "-timeout=10"]
        options.append(f"-artifact_prefix=fuzz-{arguments.target}-")
        atheris.Setup([sys.argv[0], *options, *map(str, folders)], bounded(target.check))
        atheris.Fuzz()  # ends the process
    return 0


def _fuzz_each(seconds):
    for name in fuzz.TARGETS:
        print(f"{name}: {seconds} s ...", flush=True)
        command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(seconds)]
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if run.returncode:
            print(run.stderr[-6000:], file=sys.stderr)
            return run.returncode
        [line] = [line for line in run.stderr.splitlines() if "number_of_executed_units" in line]
        print(f"{name}: {int(line.split()[-1]):,} inputs, no finding", flush=True)
    return 0


def _replay(target, files):
    target.check(target.seeds()[0])
    check = bounded(target.check)
    for file in files:
        check(file.read_bytes())
    return 0


def _arguments():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", choices=fuzz.TARGETS)
    parser.add_argument("--seconds", type=int, default=60, help="for each target (%(default)s)")
    parser.add_argument("--keep", type=Path, help="an existing folder for what reaches new code")
    parser.add_argument("--replay", type=Path, nargs="+", help="files to give to the target")
    parser.add_argument("--minimise", type=Path, nargs="+", help="folders to renew the corpus from")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
