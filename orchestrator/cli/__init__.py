"""The command line: parses arguments, talks to the daemon, prints for people or as JSON.

Modules here import what is heavy inside the function that needs it: `status` must stay quick.
"""
