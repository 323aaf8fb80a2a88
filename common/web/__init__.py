"""Pages that are served to people: accounts, sessions, forms, what changes shown as it changes.

Starlette and uvicorn carry it. Nothing is fetched from anywhere else, and it holds no store of its own: it may be
killed at any time.
"""
