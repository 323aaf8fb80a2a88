"""Attacks on what a site promises, from the coordinator's seat: each is refused, or learns nothing uncharged."""
