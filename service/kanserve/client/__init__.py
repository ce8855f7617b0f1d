"""The Python client: arrays in, arrays out. `from kanserve import Client`.

connection    one method a call (Client)
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
