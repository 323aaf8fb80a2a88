"""What both sides know of Flower's heartbeats: how often, how patient, and how a site says goodbye."""

from __future__ import annotations

HEARTBEAT_SECONDS = 30.0
"""Interval that a site states."""
BEAT_EVERY = 10.0
"""Seconds between two heartbeats in truth, so that one may be lost."""
PATIENCE = 2
"""Intervals after which Flower takes a node for dead (its HEARTBEAT_PATIENCE)."""
FAREWELL_SECONDS = 10.0
"""Interval of the last heartbeat before a goodbye, Flower's shortest: tells it from a node that just fell silent."""
