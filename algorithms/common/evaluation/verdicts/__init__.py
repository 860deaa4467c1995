"""Which of two answers to the same prompt is better: verdicts, what they are about, and the judges that give them."""

from .pairings import AGAINST, Pair, Run, finished_runs, pairings
from .records import DATA, FILE, ORDERS, OUTCOMES, START, Verdict, append, now, read

__all__ = ["AGAINST", "DATA", "FILE", "ORDERS", "OUTCOMES", "START", "Pair", "Run", "Verdict", "append", "finished_runs",
           "now", "pairings", "read"]
