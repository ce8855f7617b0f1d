"""The Python client: arrays in, arrays out. `from kanserve import Client`.

connection    one method a call (Client)
channel       addresses, TLS
bulk          more rows than one request may hold
description   a served KAN as plain values
errors        what a call can end with
"""
