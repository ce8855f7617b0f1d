"""The proof: every graph against the float64 evaluation, zone by zone, before anything is kept."""
