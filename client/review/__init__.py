"""Blinded review: clinicians compare the answers of two models to questions on this site's held-out records.

Everything of it lies in `state/review` of the site folder and stays there, but for a summary that somebody exports.
"""
