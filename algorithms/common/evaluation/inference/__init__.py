"""What seeds × prompts say about methods: intervals, comparisons of several methods, the sentences that follow.

numpy and scipy only. A figure of a method is a matrix over S trained seeds and P prompts that all of them answered.
"""
