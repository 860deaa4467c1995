"""One record, many views: reading files into records, the sets of a run, and what the data report says about them.

``record`` is the record, ``storage`` many of them, ``views`` what algorithms train on, ``sets`` the named sets of a
run. A file goes through ``readers`` (with ``lines`` and ``json_rows``: rows), ``recognition`` (which columns are what,
of our ``fields``), ``columns`` or ``mappers`` and ``filters`` (records) and ``loading`` (counts, errors).
"""

from .record import Messages, Record, further, parse_transcript, prompt_hash, render_transcript
from .sets import DataSets, FileData, Gold, Measure, data_view, view_sets
from .storage import Records, cache_folder, set_cache_folder
from .told import LoadReport
from .values import BadRow, Skipped
from .views import demonstrations, pairs, preferred, prompts, ranked, rated, split

__all__ = ["BadRow", "DataSets", "FileData", "Gold", "LoadReport", "Measure", "Messages", "Record", "Records",
           "Skipped",
           "cache_folder", "data_view", "demonstrations", "further", "pairs", "parse_transcript", "preferred",
           "prompt_hash", "prompts", "ranked", "rated", "render_transcript", "set_cache_folder", "split", "view_sets"]
