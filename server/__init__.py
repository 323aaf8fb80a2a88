"""The coordinator: round loop, optimizer state, checkpoints, report. It never sees a record."""
