"""Runs a command and measures it from outside: see `fgr_edge.bench.child`, where it lives."""

from fgr_edge.bench.child import ChildRun, run_child

__all__ = ["ChildRun", "run_child"]
