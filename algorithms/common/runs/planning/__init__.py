"""``task=plan``: what a command will take, from a few real steps of each of its stages, of which nothing is kept."""
