"""The MCP server: what an agent may see and do here, as tools, resources and a prompt.

It is one more command line, for programs that speak the Model Context Protocol: it asks the daemon
as every verb does, and says what is wrong in the same words. Nothing here prints: standard output
is the protocol's. Everything that leaves goes through `plain.tidy`, for names and lines of models
are anybody's.
"""
