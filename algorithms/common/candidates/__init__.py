"""Scored responses for each prompt, made before training: ``making``, and where they come from, ``sources``."""

from .making import Candidates
from .sources import DiverseBeams, FromRecords, OtherModel, Sampled

__all__ = ["Candidates", "DiverseBeams", "FromRecords", "OtherModel", "Sampled"]
