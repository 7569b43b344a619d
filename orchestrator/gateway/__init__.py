"""The gateway: one address for every declared model. A process of its own, so that streams outlive
the daemon.

`inbound` and `outbound` are HTTP/1.1 on either side, `exchange` is what becomes of one request.
What may live here: bytes from clients to instances and back. What may not: deciding which
instances run; the gateway knows the table that the daemon hands it, and asks for starts.
"""
