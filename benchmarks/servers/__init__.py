"""How fast are the transports? Beside bare answers, other Python servers and Triton, in turns on this machine."""
