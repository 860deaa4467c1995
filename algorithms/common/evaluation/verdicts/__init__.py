"""Which of two answers to the same prompt is better: verdicts, what they are about, and the judges that give them."""

from .judge import Court, Judge
from .pairings import AGAINST, REFERENCES, Comparison, Pair, Run, finished_runs, pairings
from .records import DATA, FILE, ORDERS, OUTCOMES, START, Verdict, append, now, read

__all__ = ["AGAINST", "DATA", "FILE", "ORDERS", "OUTCOMES", "REFERENCES", "START", "Comparison", "Court", "Judge",
           "Pair", "Run", "Verdict", "append", "finished_runs", "now", "pairings", "read"]
