"""The operating system, one concern a file: processes, ports, logs, probes, files, the store.

Everything that is Linux's own stays behind the names here. Nothing here decides: a module does
what it is told and reports what it saw.
"""
