"""The Python client: arrays in, arrays out. `from kanserve import Client`, or AsyncClient.

calls         every call as a value: what is sent, what its answer means
peer          whom a client calls, deadlines, what is tried again, errors in our words
connection    one method a call, which waits (Client)
awaiting      the same for asyncio (AsyncClient)
answers       what they give, as plain values
curves        edge functions on a grid
explain       why predictions came out
statistics    what numbers are, beside what they were
scores        what edges and inputs matter over a batch
channel       addresses, TLS
bulk          more rows than one request may hold
description   a served KAN as plain values
errors        what a call can end with
"""
