"""The report of a sweep as one page that needs nothing else: `content` gathers, `charts` draws, `render` writes."""
