"""How fast are the doors? Beside bare answers, other Python servers and Triton, in turns on this machine."""
