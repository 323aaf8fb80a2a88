"""Secure aggregation: the coordinator learns the sum over the sites, and of no site what it added (no I/O here).

Bonawitz et al. 2017 (Practical Secure Aggregation, figure 4, active adversary), complete graph, 3 to 200 sites.
"""
