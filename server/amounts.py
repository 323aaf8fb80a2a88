"""Sizes and time spans as people read them."""

from __future__ import annotations


def size_text(count: int) -> str:
    """Text of a number of bytes in decimal units."""
    unit, divisor = byte_unit(count)
    return f"{count / divisor:.3f} {unit}" if divisor > 1 else f"{count} B"


def byte_unit(count: int) -> tuple[str, int]:
    """Return the decimal unit that suits a number of bytes, and its size."""
    units = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
    return next(((unit, size) for unit, size in units if count >= size), ("B", 1))


def duration_text(seconds: float) -> str:
    """Text of a time span."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{seconds:.1f} s"
