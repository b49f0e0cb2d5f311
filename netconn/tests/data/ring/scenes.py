"""Makes the connections that are recorded for tests/recorded.rs, one after another, so that their records have one order."""
import os
import socket
import struct
import time

LINGER = struct.pack("ii", 1, 0)


def pair(address, family=socket.AF_INET):
    listener = socket.socket(family)
    listener.bind((address, 0))
    listener.listen()
    client = socket.socket(family)
    client.connect(listener.getsockname())
    server, _ = listener.accept()
    return listener, client, server


def pause():
    time.sleep(0.02)


# Bytes in both directions; the client closes first.
for address, family in ("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6):
    listener, client, server = pair(address, family)
    client.sendall(b"x" * 1000)
    server.recv(2000)
    server.sendall(b"y" * 10)
    client.recv(20)
    client.close()
    pause()
    server.close()
    listener.close()
    pause()

# A refused connection, one without a route, and a reset.
for to in ("127.0.0.1", 9), ("192.0.2.1", 80):
    client = socket.socket()
    print(client.connect_ex(to))
    client.close()
    pause()
listener, client, server = pair("127.0.0.1")
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
client.close()
pause()
server.close()
listener.close()

# A child accepts a connection to its parent's listener.
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
child = os.fork()
if child == 0:
    server, _ = listener.accept()
    server.sendall(b"hello")
    server.recv(1)
    os._exit(0)
client = socket.create_connection(listener.getsockname())
client.recv(10)
client.close()
os.waitpid(child, 0)
listener.close()
pause()
