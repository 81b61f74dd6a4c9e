import sys
from pathlib import Path

if sys.argv[:1] == ["-m"] or (sys.argv and Path(sys.argv[0]).name == "twist"):  # `python -m jobs.X` or `twist X` starts
    from jobs.stopping import end_at_once_while_loading

    end_at_once_while_loading()
