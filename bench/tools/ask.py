"""Ask the resident engine for a pass and end as it did. Loads nothing, so that it adds nothing."""

import socket
import sys

with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as mouth:
    mouth.connect(sys.argv[1])
    words = b""
    while piece := mouth.recv(4096):
        words += piece
code, _, said = words.decode().partition(" ")
print(said)
sys.exit(int(code))
