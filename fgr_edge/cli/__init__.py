"""The `fgr-edge` command: verbs only, one a module. Each parses its options, calls one function and prints.

Results go to stdout, logs and progress to stderr. Exit 0 done, 1 a known failure, 2 usage. Modules are imported in the
order of `fgr-edge --help`; what they need they import when they are called.
"""

from fgr_edge.cli.root import app as app, main as main
from fgr_edge.cli import export
from fgr_edge.cli import build
from fgr_edge.cli import tune
from fgr_edge.cli import inspect
from fgr_edge.cli import verify
from fgr_edge.cli import recognize
from fgr_edge.cli import label
from fgr_edge.cli import evaluate
from fgr_edge.cli import bench
from fgr_edge.cli import calibrate_labels
from fgr_edge.cli import train
