"""Pure decisions: what a profile means, what a model is, what to do next.

Nothing here reads the clock, the disk, the network, the environment or the process table, and
nothing is random: such values come in as arguments. The import contracts forbid the modules.
"""
