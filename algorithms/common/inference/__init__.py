"""What seeds × prompts say about methods: intervals, comparisons of several methods, and the sentences that follow from them.

numpy and scipy only. A figure of a method is a matrix over S trained seeds and P prompts that all of them answered.
"""
