"""What there is to tell of a served KAN as a whole, for `kanserve report` and for the page's card: one source of both.

contents   the parts: what it is, where it came from, how its export was proved, pictures, formula
figures    what a server answers, as what the pictures draw
told       the parts as JSON
"""
