"""One file per kind of server program: which settings it takes and how its command is spelled.

Engines are pure renderers. They never start a process and never look at the disk; what a binary
says of itself (its `--help`) is handed to them as text. The exception is `embedded*.py`: no
renderer, but the program of the embedded engine, a process of its own.
"""
