"""The coordinator's pages: what goes on in the federation and in each run, as it goes on, and what one can do about it.

It reads what others write and holds nothing of its own: it may be killed at any time.
"""
